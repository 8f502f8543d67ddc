"""Words by which it is told whether a word of a text is somebody's name. Data only; all folded and in lower case."""

__all__ = ["BEFORE_A_NAME", "COMMON", "NEVER_ALONE", "TIMES_AND_PLACES"]

_NEVER_ALONE = """
a ab ag al an and as at bin bv by co da das de del den der des di do dos du e el en et for gmbh i il im in inc is it
jr kg la las le les llc lo los ltd me my no of on or sa san santa so sr st srl the to und us van ver von y zu zum zur
"""
NEVER_ALONE = frozenset(_NEVER_ALONE.split())
"""Particles, legal forms and small words: never taken for a name by themselves, only beside another part of it."""

_TIMES_AND_PLACES = """
april august june may summer autumn winter monday tuesday wednesday thursday friday saturday sunday easter noel
austin berlin charlotte chelsea china dallas florence georgia houston india israel jordan london madison milan paris
sydney vienna virginia washington
"""
TIMES_AND_PLACES = frozenset(_TIMES_AND_PLACES.split())
"""Words that are written with a capital anyway: a capital says nothing."""

_COMMON = """
account accounts admin agent alt amber angel art auto ball bank banks basil bauer bear bell best berry bill bird bishop
blanc bond braun bright brown bull bush business buy cafe call can capital care carpenter carter case cash chance chase
check cherry chip church clinic close cloud club coach company connect construction consulting cook corp cross crystal
customer daisy data dawn day deal dean dental design digital drew duke dyer earl east electric email energy eve every
faith farmer field fields finance first fisher flor florist foods ford forest fox frank free garage garden german ginger
global gold good gospel grace grand grant gray green grey gross ground group guy hall hand happy hart health heart help
hill home honor hope hospital hotel house hunt hunter ice info insurance international invoice iris ivy jack jade job
joker joy judge jung key kid king klein knight koch labs lake lamb lance lang last law legal leon light lily lion
logistics long lord love luz mail major man mar marine mark market marshall martin mason master max mayor media mercy
miles mill miller mine monitoring moon more motor motors name neu new night noble none north null office olive open
order page park parks partners pat paz pearl penny pepper petit phone physio piano pierce pilot plan plant pope porter
post power powers pray price prince public queen rain ray reach read real reason red reed refund restaurant rice rich
richter ring rivers rob rock root rosa rose royal ruby ruth sage sales sandy school schwarz sea service services sharp
shop short singer skip sky small smart smith snow software sol solutions south spark star stark stein stone stop
store storm street strong studio sue sun support swift systems taylor team tech technologies teller test ticket time
trade travel true turner union university user ventures wade walker wall ward water way weaver web weiss welcome well
west white will wine winner wise wolf wood woods world wright young
"""
COMMON = frozenset(_COMMON.split())
"""Names, and words of companies' names, that are words of a language too."""

_BEFORE_A_NAME = """
am beste bien bonjour called caro cara cheers cher chere ciao contact customer dear dr estimada estimado frau grusse
gruesse hallo hello herr hey hi hola i'm kunde liebe lieber madame miss mme monsieur mr mrs ms mx named prof querida
querido regards saluti saludos senor senora sig signor signora sincerely soy sr sra thanks user
"""
BEFORE_A_NAME = frozenset(_BEFORE_A_NAME.split())
"""Greetings, titles and the like."""
