"""Ways in which Chinese writers disguise wording: families of operators, and the words and glyphs they use."""
