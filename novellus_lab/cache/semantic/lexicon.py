"""The words that decide whether two English questions are the same one.

Small closed classes, written down because no embedding tells them apart: in vectors "before" is
near "after", and "two" near "three". Open classes (what a sofa is) are left to the vectors.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _in_order(text: str) -> list[str]:
    return text.split()


FUNCTION_WORDS = _words(
    """a an the this that these those some of to in on at by for from with into onto about as and or
    but if than then so also just please i me my mine you your yours he him his she her it its we us
    our they them their one someone somebody anyone anybody who whom whose which what when where why
    how be is am are was were been being do does did done doing have has had having can could will
    would shall should may might must ought there here up out off down over under through via per
    it's while because during between among within upon very really quite actually exactly own
    possible way ways tell give show explain describe let know want need like help could kindly able use using used get got going go make made thing something order
    such whether both many much often long far define"""
)
"""Words that say little by themselves. They count in comparisons of phrasing, not of content."""

PLAIN_VERBS = _words("use get make have give show need want go do")

GREETINGS = _words("hey hi hello thanks thank please dear")
"""Functional at a text's ends; elsewhere what is talked about ("translate hello")."""

PERSONS: dict[str, str] = {
    "my": "mine", "mine": "mine", "our": "mine", "ours": "mine", "your": "yours", "yours": "yours",
    "his": "his", "her": "hers", "hers": "hers", "their": "theirs", "theirs": "theirs",
}  # fmt: skip
"""Whose it is. "A" and "the" are no one's, and go with each."""

TELLING = _words(
    """tell give show help let for to with teach write get find make remind suggest recommend send
    explain by from of about bring buy around near"""
)
"""Before "me" these make it the one who is told, or given something."""

PAST = _words("was were did had")
PRESENT = _words("is are am do does")
AHEAD = _words("will should must shall")

CONTENT_IN_QUESTION = _words("use get make go need want like help show give explain describe way")
"""Of those, the ones that mean something once a question has no other content."""

FOREIGN_WORDS = _words(
    """der die das ein eine und ist sind wie wer wo warum wann nicht ich wir sie mein mit auf für von
    zu im den dem des kann welche welcher was le la les un une des du est sont et comment pourquoi
    quand où qui que quoi quel quelle je nous vous mon ma dans pour avec pas el los las una unos es
    son y cómo como por qué quién cuándo dónde cuál mi con para del al il lo gli uno della di che
    perché dove quando sono o os um uma não eu meu em het een en van hoe waarom niet ik mijn de"""
)
"""Frequent words of other languages. The verdict is trained on English."""

ENGLISH_WORDS = _words(
    """the a an is are was were do does did how what why when where who which can could should would
    will i my me you your to of in on for and with it this that tell explain write give list from
    there have has be by at or not"""
)

NEGATIONS = _words(
    "not no never none nobody nothing neither nor without cannot except unless lacking lack"
)

NUMBER_WORDS: dict[str, str] = {
    word: str(value)
    for value, word in enumerate(
        _in_order(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen "
            "fourteen fifteen sixteen seventeen eighteen nineteen twenty"
        )
    )
} | {
    "thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80",
    "ninety": "90", "hundred": "100", "hundreds": "100", "thousand": "1000", "thousands": "1000",
    "million": "1000000", "millions": "1000000", "billion": "1000000000", "dozen": "12",
    "twice": "2x", "thrice": "3x", "double": "2x", "triple": "3x", "half": "1/2", "quarter": "1/4",
    "second": "2nd", "third": "3rd", "fourth": "4th", "fifth": "5th", "sixth": "6th",
    "seventh": "7th", "eighth": "8th", "ninth": "9th", "tenth": "10th", "first": "1st",
}  # fmt: skip
NUMBER_WORDS.pop("one")  # mostly a pronoun; "one week" against "two weeks" still differs by the two

ROMAN: dict[str, str] = {
    "II": "2", "III": "3", "IV": "4", "VI": "6", "VII": "7", "VIII": "8", "IX": "9", "XI": "11",
    "XII": "12",
}  # fmt: skip

_UNITS = """
percent % percentage pct|dollar $ usd buck dollars|euro € eur|pound_sterling £ gbp|yen ¥ jpy
rupee ₹ inr|yuan cny rmb|franc chf|cent cents|bitcoin btc|ether eth
metre m meter metres meters|kilometre km kms kilometer kilometers kilometres|centimetre cm
millimetre mm|mile mi miles|foot ft feet|inch inches|yard yd yards
gram g grams|kilogram kg kgs kilo kilos|milligram mg|pound lb lbs|ounce oz ounces|ton tonne tons
litre l liter liters litres|millilitre ml|gallon gal gallons|cup cups|teaspoon tsp|tablespoon tbsp
second s sec secs seconds|minute min mins minutes|hour h hr hrs hours|day days|week weeks
month months|year years yr yrs|decade decades|century centuries|millisecond ms
celsius °c centigrade|fahrenheit °f|kelvin
byte bytes|kilobyte kb|megabyte mb|gigabyte gb|terabyte tb|bit bits
watt w watts|kilowatt kw|volt v volts|amp amps ampere|hertz hz|ghz|mhz|mph|kph kmh km/h
am a.m.|pm p.m.|degree degrees °
"""
UNITS: dict[str, str] = {
    name: names.split()[0] for line in _UNITS.split("\n") for names in line.split("|") if names.strip()
    for name in names.split()
}  # fmt: skip
"""Spelling of a unit or currency to its name."""

_AMBIGUOUS_UNITS = _words("m g l s h w v mi min sec ms am cup cups foot pound bit amp second")
UNIT_WORDS: dict[str, str] = {
    name: unit for name, unit in UNITS.items() if name not in _AMBIGUOUS_UNITS
}
"""Those that are a unit without a number before them, too."""

TIME_WORDS: dict[str, str] = {
    word: word
    for word in _in_order(
            "january february march april june july august september october november "
            "december monday tuesday wednesday thursday friday saturday sunday today tomorrow "
            "yesterday tonight weekend morning afternoon evening midnight noon christmas "
            "easter ramadan thanksgiving halloween"
        )
} | {
    "jan": "january", "feb": "february", "aug": "august", "sept": "september", "oct": "october",
    "nov": "november", "dec": "december", "mondays": "monday", "tuesdays": "tuesday",
    "wednesdays": "wednesday", "thursdays": "thursday", "fridays": "friday",
    "saturdays": "saturday", "sundays": "sunday", "weekends": "weekend", "today's": "today",
}  # fmt: skip

_OPERATORS = """
more|less fewer|most|least fewest|before prior|after|until till|since|all every each|some|any|only solely
always|sometimes|never|maximum max|minimum min|above|below beneath|next|previous preceding
last latest|again|better|worse|best|worst|same identical|different|inside|outside|left|right|north|south
east|west|former|early earlier|late later|male|female|current currently|original
"""
OPERATOR_WORDS: dict[str, str] = {
    word: words.split()[0]
    for line in _OPERATORS.split("\n")
    for words in line.split("|")
    for word in words.split()
}
"""Comparatives, quantifiers, directions: words that turn an answer round; to one name each."""

OPERATOR_GROUPS: tuple[frozenset[str], ...] = tuple(
    _words(group)
    for group in """more less|most least|before after until since|all some any only|always sometimes never
maximum minimum|above below|next previous last current former original|better worse|best worst
same different|inside outside|left right|north south east west|early late|male female""".replace(
        "\n", "|"
    ).split("|")
)
"""Of each, one excludes the others."""

STRONG_OPERATORS = _words(
    "less least maximum before after until only above below next previous former again north south east west"
)
"""Those that turn the answer round even if the other question has no such word at all."""

PRAISE = _words("best good right proper correct usual normal common simple general")
"""Before a frame noun they add nothing: "the best way to", "the right steps"."""

CLASS_NOUNS = _words(
    """programming language framework library software app application tool platform company city
    country state movie film book novel band game algorithm protocol database theory concept model
    website service standard format project"""
)
"""After a name, in a question of what it is, they add nothing: "Python programming"."""

FORM_WORDS = _words(
    """a an the what which is are be how do does can could should would will you i we one me my please
    kindly tell explain describe define to way about of exactly really actually just also so hey hi
    hello thanks thank there it that this possible someone somebody steps step process method
    procedure best good right proper correct"""
)
"""Words in which two ways to ask the same may differ, if the question's kind stays."""

FRAME_NOUNS = _words(
    """step steps process method methods procedure command approach technique instructions instruction
    trick syntax solution tip tips way ways"""
)
"""What a how-to question may ask for by name: "the steps to …"."""

WEAK_WORDS = _words(
    """introduction overview explanation reason reasons name find calculate compute answer question example tip tips best good easy easiest
    simple proper properly correct correctly right meaning mean word term called call new currently
    current define definition certain particular various different kind type sort information
    detail details basic basics general please work exist happen number amount able need require
    required necessary become look see say please list write compose create person people thing
    stuff lot try trying just really actually recommended recommend suggest suitable"""
)
"""Words that a paraphrase may add or drop. They count a quarter."""

_OPPOSITES = """
enable disable|on off|open close|start stop|start end|begin end|begin finish|increase decrease
raise lower|rise fall|rise drop|grow shrink|buy sell|lend borrow|push pull|import export
upload download|install uninstall|add remove|add subtract|add delete|multiply divide|insert delete
insert remove|create delete|create destroy|accept reject|accept decline|accept refuse|allow forbid
allow deny|allow block|allow prevent|grant revoke|lock unlock|subscribe unsubscribe|follow unfollow
connect disconnect|attach detach|load unload|wrap unwrap|encrypt decrypt|encode decode
compress decompress|zip unzip|serialize deserialize|marshal unmarshal|minimize maximize|win lose
gain lose|find lose|pass fail|succeed fail|read write|send receive|give take|ask answer|deposit withdraw
credit debit|debtor creditor|employer employee|teacher student|parent child|husband wife|man woman
boy girl|brother sister|father mother|mom dad|son daughter|uncle aunt|king queen|male female
hot cold|warm cool|heat cool|big small|large small|long short|tall short|high low|wide narrow
deep shallow|thick thin|heavy light|fast slow|speed slow|early late|old new|old young|first last
oldest newest|oldest youngest|largest smallest|biggest smallest|longest shortest|highest lowest
cheap expensive|cheapest expensive|rich poor|strong weak|hard easy|hard soft|easy difficult
simple complex|good bad|best worst|better worse|pro con|advantage disadvantage|benefit drawback
benefit risk|positive negative|plus minus|true false|right wrong|left right|north south|east west
up down|over under|above below|inside outside|upward downward|upgrade downgrade|let stop|let prevent|allow stop|help hinder|indoor outdoor|input output|internal external
public private|local remote|client server|front back|top bottom|beginning end|upper lower
ascending descending|horizontal vertical|row column|width height|length width|latitude longitude
numerator denominator|singular plural|prefix suffix|synonym antonym|active passive|sync async
synchronous asynchronous|static dynamic|mutable immutable|legal illegal|safe dangerous|alive dead
birth death|born died|birth die|born die|love hate|like dislike|remember forget|hire fire
sunrise sunset|built torn|arrive depart|arrival departure|enter exit|enter leave|entrance exit|come go|wake sleep|full empty
wet dry|clean dirty|inhale exhale|attack defend|offense defense|supply demand|cause effect
cause result|cause consequence|question answer|profit loss|revenue cost|asset liability|bull bear
inflation deflation|majority minority|maximum minimum|vertical horizontal|acid base|odd even
prime composite|rational irrational|freeze melt|freeze thaw|freeze boil|expand contract
expand collapse|show hide|mute unmute|pin unpin|block unblock|undo redo|commit revert
merge split|join split|push pop|encode decode|turn return|vegan vegetarian|aged young
hire resign|resign retire|lighten darken|brighten dim|tighten loosen|shorten lengthen
strengthen weaken|widen narrow|hypertension hypotension|introvert extrovert|optimist pessimist
predecessor successor|ancestor descendant|guilty innocent|victory defeat|permanent temporary
optional required|voluntary mandatory|domestic international|wholesale retail|host guest
differ common|difference common|difference similarity|different same|he she|him her|himself herself|for against|inner outer|inward outward|major minor
senior junior|succeed precede|follow precede|mount unmount|summer winter|spring autumn|day night|dawn dusk
friend enemy|ally enemy|victim perpetrator|doctor patient|lawyer client|predator prey|teacher pupil
producer consumer|publisher subscriber|sender receiver|sender recipient|lender borrower|author reader
speaker listener|winner loser|leader follower|hero villain|urban rural|solid liquid|liquid gas
organic inorganic|analog digital|manual automatic|abstract concrete|literal figurative|formal informal
absolute relative|general specific|broad narrow|sine cosine|derivative integral|differentiate integrate
sum difference|sum product|product quotient|mean median|union intersection|subset superset|stack queue
ingress egress|request response|plaintext ciphertext|vein artery|symptom cause|symptom treatment
cause treatment|prevent cause|prevent treat|treat cause|diagnose treat|emigrate immigrate
emigrant immigrant|surplus deficit|bride groom|prince princess|actor actress|waiter waitress|nephew niece
grandmother grandfather|grandson granddaughter|lowercase uppercase|synonym homonym|landlord lodger
single double|single married|married divorced|gross net|tenant landlord|buyer seller|plaintiff defendant|mortgage rent|rent buy
"""


def _graded(word: str, ending: str) -> str:
    """Return a comparative or superlative: long, longer; big, bigger; easy, easier; safe, safer."""
    if word.endswith("e"):
        return word + ending[1:]
    if word.endswith("y") and len(word) > 3:
        return word[:-1] + "i" + ending
    vowel_before = len(word) == 3 and word[-2] in "aeiou" and word[-1] not in "aeiouwy"
    return word + word[-1] + ending if vowel_before else word + ending


_PAIRS = [pair.split() for line in _OPPOSITES.split("\n") for pair in line.split("|") if pair]
OPPOSITES: frozenset[frozenset[str]] = frozenset(
    frozenset(words)
    for one, other in _PAIRS
    for words in (
        (one, other),
        (_graded(one, "er"), _graded(other, "er")),
        (_graded(one, "est"), _graded(other, "est")),
    )
)

OPPOSITE_PREFIXES = frozenset(
    frozenset(pair.split())
    for pair in [
        "over under",
        "upper lower",
        "up down",
        "in out",
        "pre post",
        "hyper hypo",
        "inter intra",
        "macro micro",
        "mono poly",
        "single multi",
        "fore back",
        "on off",
        "north south",
        "east west",
        "max min",
        "more less",
        "pro anti",
        "ante post",
        "endo exo",
        "homo hetero",
        "ful less",
    ]
)
"""Beginnings (or endings) that make two words with the same rest opposites: overweight, underweight."""

PARTICLES = _words("up down in out on off over away back")
"""After some verbs they make another: sign in, sign up, sign out."""

PHRASAL = _words(
    "sign log turn switch put take scroll zoom round speed slow wake opt check hang power"
)

PARTS_PLAYED = _words(
    "over under above below before after with without from into against through until since"
)
"""Prepositions of which one is never said for another."""

TURNING_ROUND = _words("off without over under before after except")
"""Those that, where all other words are the same, are never said or dropped for nothing."""

NEGATIVE_PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "de", "anti", "mis", "hyper", "hypo", "over", "under", "pre", "post", "inter", "intra")  # fmt: skip

IRREGULAR: dict[str, str] = {
    "children": "child", "mice": "mouse", "men": "man", "women": "woman", "feet": "foot",
    "teeth": "tooth", "geese": "goose", "people": "person", "persons": "person", "leaves": "leaf",
    "knives": "knife", "lives": "life", "wives": "wife", "indices": "index", "indexes": "index",
    "went": "go", "gone": "go", "bought": "buy", "brought": "bring", "thought": "think",
    "wrote": "write", "written": "write", "writing": "write", "took": "take", "taken": "take",
    "gave": "give", "given": "give", "came": "come", "made": "make", "found": "find",
    "won": "win", "lost": "lose", "sent": "send", "spent": "spend", "paid": "pay", "said": "say",
    "sold": "sell", "told": "tell", "knew": "know", "known": "know", "grew": "grow",
    "grown": "grow", "flew": "fly", "broke": "break", "broken": "break", "stole": "steal",
    "stolen": "steal", "ate": "eat", "eaten": "eat", "ran": "run", "began": "begin",
    "begun": "begin", "led": "lead", "met": "meet", "kept": "keep", "left": "leave",
    "built": "build", "drove": "drive", "driven": "drive", "froze": "freeze", "frozen": "freeze",
    "chose": "choose", "chosen": "choose", "born": "birth", "died": "die", "dead": "die",
    "death": "die", "taught": "teach", "caught": "catch", "fought": "fight", "sang": "sing",
    "bacteria": "bacterium", "criteria": "criterion", "phenomena": "phenomenon", "data": "data",
    "wifi": "wifi", "tv": "television", "bike": "bicycle", "bikes": "bicycle", "pc": "computer",
    "photo": "photo", "dict": "dictionary", "dicts": "dictionary", "int": "integer",
    "ints": "integer", "str": "string", "info": "information", "app": "application",
    "apps": "application", "ad": "advertisement", "db": "database", "repo": "repository",
    "config": "configuration", "docs": "documentation", "js": "javascript", "tyre": "tire",
    "tyres": "tire", "grey": "gray", "programme": "program", "email": "email", "emails": "email",
    "e-mail": "email", "fridge": "refrigerator", "phone": "phone", "cellphone": "phone",
    "smartphone": "phone", "uk": "britain", "usa": "america", "us": "us", "max": "maximum",
    "min": "minimum", "movie": "film", "okay": "ok", "mom": "mother", "mum": "mother",
    "dad": "father", "kid": "child", "kids": "child", "regex": "regex", "regexp": "regex",
}  # fmt: skip

ALIASES: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split("|"))
    for line in [
        "us|usa|u.s|u.s.a|america|united states",
        "uk|u.k|britain|united kingdom|great britain",
        "nyc|new york city|new york",
        "eu|european union",
        "un|united nations",
        "la|los angeles",
        "uae|united arab emirates",
        "js|javascript",
        "ts|typescript",
        "postgres|postgresql",
        "k8s|kubernetes",
        "ai|artificial intelligence",
        "ml|machine learning",
        "nlp|natural language processing",
        "sf|san francisco",
        "dc|washington",
    ]
)

BINDERS = _words(
    """from to into onto than over before after without with by under above below against toward
    towards off via until since for in on at of"""
)
"""Prepositions: what stands after one plays its part, and no other."""

MEASURE_NOUNS = _words(
    """length duration distance age number count amount price cost costs population size height depth
    temperature speed weight time times frequency rate value energy quantity width area limit dose
    salary fee fees total sum volume percentage share minutes hours days weeks months years calories
    capacity thickness range score level minimum maximum average altitude mass"""
)
"""What a question of how much or how long may ask for by name."""

TURNING = _words("turn turned turning switch switched switching power powered sign log opt")
TURNED: dict[str, str] = {
    "faster": "faster", "slower": "slower",
    "enable": "on", "enabled": "on", "enabling": "on", "activate": "on", "activated": "on",
    "disable": "off", "disabled": "off", "disabling": "off", "deactivate": "off",
}  # fmt: skip
"""Verbs that a particle turns round, and words that say which way."""
