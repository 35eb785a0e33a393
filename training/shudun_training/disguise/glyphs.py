"""Characters and the glyphs people put in their place: split, look-alike, traditional, styled and numeral forms.

The traditional forms were chosen with OpenCC: common simplified characters with one traditional form only, which are
no traditional characters themselves. Split and look-alike forms are written by hand for this project. Forms of letters
and digits follow from the layout of the Unicode blocks.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import TypeAlias

Glyphs: TypeAlias = Mapping[str, str]
"""Character → what stands in its place."""

_SIMPLIFIED = (
    "没来说这点过两给还写学们师妈会开时问买单号费图现门带报头块条评课进话业记钱边长实换车电样对张从医卖书场楼页论装让数题区结试动间线内猫转宝经红岁"
    "满员讲关盘国语资办见吗认备补谢笔脸级码谁错帮节专导队贴护养账饭东选约货变广锅练刚职无领标户馆减测扫营爷额画验声连预请黄镜双务视软纸计亲够产脚顶"
    "毕鱼读觉调俩礼频风贵终妆热灯设绿稳质摄盖诉压诊总卫链旧爱随购铁检绝闺运邮抢骂编难闭垫骗顺续统简断处组谱紧丝鸡档举颜阳层顾肤温墙议习欢邻缝涨险赔"
    "递传马园词奖删库册轻锁销细脑龙蓝应询银执权订颗辈橱烧贷训联远吓监劝裤摊绍亏谈类龄厨齐称"
)
_TRADITIONAL = (
    "沒來說這點過兩給還寫學們師媽會開時問買單號費圖現門帶報頭塊條評課進話業記錢邊長實換車電樣對張從醫賣書場樓頁論裝讓數題區結試動間線內貓轉寶經紅歲"
    "滿員講關盤國語資辦見嗎認備補謝筆臉級碼誰錯幫節專導隊貼護養賬飯東選約貨變廣鍋練剛職無領標戶館減測掃營爺額畫驗聲連預請黃鏡雙務視軟紙計親夠產腳頂"
    "畢魚讀覺調倆禮頻風貴終妝熱燈設綠穩質攝蓋訴壓診總衛鏈舊愛隨購鐵檢絕閨運郵搶罵編難閉墊騙順續統簡斷處組譜緊絲雞檔舉顏陽層顧膚溫牆議習歡鄰縫漲險賠"
    "遞傳馬園詞獎刪庫冊輕鎖銷細腦龍藍應詢銀執權訂顆輩櫥燒貸訓聯遠嚇監勸褲攤紹虧談類齡廚齊稱"
)

_SPLIT = (
    "信亻言 私禾厶 加力口 群君羊 话讠舌 证讠正 评讠平 论讠仑 询讠旬 课讠果 扣扌口 找扌戈 拍扌白 "
    "搜扌叟 打扌丁 扫扌彐 拉扌立 店广占 淘氵匋 码石马 联耳关 价亻介 优亻尤 代亻弋 链钅连 钱钅戋 "
    "银钅艮 刷尸刂 费弗贝 货化贝 贷代贝 员口贝 只口八 好女子 妈女马 她女也 姐女且 妹女未 如女口 "
    "明日月 朋月月 林木木 相木目 机木几 杯木不 树木对 吃口乞 喝口曷 吗口马 吧口巴 呢口尼 啊口阿 "
    "哈口合 哪口那 味口未 叫口丩 你亻尔 他亻也 们亻门 位亻立 件亻牛 住亻主 休亻木 体亻本 做亻故 "
    "什亻十 让讠上 说讠兑 请讠青 认讠人 识讠只 该讠亥 谁讠隹 谢讠射 试讠式 计讠十 法氵去 没氵殳 "
    "汤氵昜 洗氵先 油氵由 江氵工 河氵可 海氵每 炒火少 烧火尧 灯火丁 秋禾火 种禾中 和禾口 对又寸 "
    "欢又欠 难又隹 鸡又鸟 现王见 玩王元 理王里 给纟合 红纟工 线纟戋 孩子亥 孔子乚 的白勺 时日寸 "
    "晚日免 晴日青 昨日乍 早日十 量旦里 是旦疋 胖月半 肚月土 脚月却 脸月佥 期其月 放方攵 收丩攵 "
    "教孝攵 数娄攵 新亲斤 所户斤 动云力 功工力 助且力 男田力 分八刀 切七刀 别另刂 利禾刂 到至刂 "
    "剧居刂 故古攵 静青争 朝龺月 舒舍予 朗良月 够句多 外夕卜 歌哥欠 次冫欠 冰冫水 冷冫令 决冫夬 "
    "准冫隹 张弓长 强弓虽 挂扌圭 换扌奂 接扌妾 推扌隹 提扌是 担扌旦 把扌巴 投扌殳 批扌比 抖扌斗 "
    "护扌户 授扌受 招扌召 挣扌争 排扌非 从人人 众人从 品口吕 吕口口 回囗口 国囗玉 图囗冬 园囗元 "
    "团囗才 因囗大 四囗儿 问门口 间门日 闲门木 闭门才 闺门圭"
)

_SIMILAR = (
    "微徽徴 信伩倌 群郡裠 薇葳嶶 私俬 加咖 码玛 价阶 评坪 论沦 话活 证怔 询洵 链琏 接椄 店沾 "
    "淘陶 宝宔 抖枓 扣抇 联眹 系糸 拍柏 搜嫂 主王 页贞 已己巳 未末 末未 土士 日曰 天夭 大太 "
    "人入 八入 千干 午牛 王玉 田由 甲申 且旦 白臼 百白 间问 问间 今令 刀力 贝见 免兔 鸟乌 住往 "
    "休体 候侯 处外 拔拨 折拆 淮准 晴睛 睛晴 请清 清请 情倩 没设 特持 待侍 治冶 冷泠 辛幸 享亨 "
    "竟竞 历厉 厂广 币巾 师帅 帅师 这迄 还坏 的旳 了孑 我找 你伱 好妤 看着 吃屹 喝渴 哈晗 姐妲 "
    "妹妺 钱线 快块 块快 元无 无元 年午 时吋 分兮 点占 早旱 晚挽 朋明 学孚 考老 小少 图囹 书节 "
    "车东 电申 毛手 机杌 买头 水永 茶荼 菜莱 衣农 真直 错借 去丢 回同 同冋 出岀 上丄 下卞 高髙 "
    "低抵 很狠 更便 部都 能熊 本木 半平 开井 用甩 事争 名各 因困 活话 孩该 班斑"
)

CONFUSABLE_LETTERS: Mapping[str, tuple[str, ...]] = {
    "a": ("а", "ɑ"),
    "c": ("с",),
    "e": ("е",),
    "i": ("і",),
    "j": ("ј",),
    "o": ("о", "ο"),
    "p": ("р", "ρ"),
    "s": ("ѕ",),
    "v": ("ѵ", "ν"),
    "w": ("ѡ", "ԝ"),
    "x": ("х", "χ"),
    "y": ("у", "ү"),
    "A": ("А", "Α"),
    "B": ("В", "Β"),
    "C": ("С",),
    "E": ("Е", "Ε"),
    "H": ("Н", "Η"),
    "I": ("І", "Ι"),
    "K": ("К", "Κ"),
    "M": ("М", "Μ"),
    "O": ("О", "Ο"),
    "P": ("Р", "Ρ"),
    "Q": ("Ԛ",),
    "S": ("Ѕ",),
    "T": ("Т", "Τ"),
    "V": ("Ѵ",),
    "W": ("Ԝ",),
    "X": ("Х", "Χ"),
    "Y": ("Ү", "Υ"),
    "0": ("О", "o"),
    "1": ("l", "І"),
}

SPOKEN_DIGITS: Glyphs = dict(zip(string.digits, "零一二三四五六七八九", strict=True)) | {"1": "幺"}
PLAIN_DIGITS: Glyphs = dict(zip(string.digits, "〇一二三四五六七八九", strict=True))
FORMAL_DIGITS: Glyphs = dict(zip(string.digits, "零壹贰叁肆伍陆柒捌玖", strict=True))
KEYCAPS: Glyphs = {digit: f"{digit}\ufe0f\u20e3" for digit in string.digits}

LETTERS = string.ascii_uppercase + string.ascii_lowercase


def block(start: int, characters: str) -> Glyphs:
    """Characters → the glyphs of a Unicode block in the same order, from code point `start`."""
    return {char: chr(start + i) for i, char in enumerate(characters)}


@cache
def full_width() -> Glyphs:
    """Printable ASCII without the space → full-width forms."""
    return block(0xFF01, "".join(map(chr, range(0x21, 0x7F))))


@cache
def styled() -> tuple[Glyphs, ...]:
    """Mathematical alphabets: bold, sans-serif bold, monospaced (letters and digits)."""
    starts = ((0x1D400, 0x1D7CE), (0x1D5D4, 0x1D7EC), (0x1D670, 0x1D7F6))
    return tuple({**block(letters, LETTERS), **block(digits, string.digits)} for letters, digits in starts)


@cache
def circled_letters() -> tuple[Glyphs, ...]:
    """Letters in circles and squares, light and dark; the dark and square ones are capitals only."""
    upper = [{**block(start, LETTERS[:26]), **block(start, LETTERS[26:])} for start in (0x1F150, 0x1F130, 0x1F170)]
    return (block(0x24B6, LETTERS), *upper)


@cache
def circled_digits() -> tuple[Glyphs, ...]:
    """Digits in circles, light and dark."""
    return ({"0": "⓪", **block(0x2460, "123456789")}, {"0": "⓿", **block(0x2776, "123456789")})


@cache
def traditional() -> Glyphs:
    """Simplified characters → traditional ones."""
    return dict(zip(_SIMPLIFIED, _TRADITIONAL, strict=True))


@cache
def split() -> Glyphs:
    """Characters → their parts side by side."""
    return {entry[0]: entry[1:] for entry in _SPLIT.split()}


@cache
def similar() -> Mapping[str, tuple[str, ...]]:
    """Characters → characters of nearly the same shape."""
    return {entry[0]: tuple(entry[1:]) for entry in _SIMILAR.split()}


@cache
def radicals() -> Glyphs:
    """Characters → Kangxi radicals that look the same (by their compatibility mapping in the Unicode data)."""
    return {unicodedata.normalize("NFKC", chr(point)): chr(point) for point in range(0x2F00, 0x2FD6)}
