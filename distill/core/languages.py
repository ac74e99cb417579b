"""Languages as codes (ISO 639): those that the detector knows, and those that write a comma before decimals.

They stand apart from the detector: a recipe is checked without loading its model.
"""

_KNOWN = (
    "ace af am an ar as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et eu ext fa fi fo fr fuv fy"
    " ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky"
    " la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms mt my ne nl no nso oc om or pa pl ps pt qu ro ru rw sa se si"
    " sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz vec vi vo wa xh yo zh zu"
)
KNOWN_LANGUAGES = frozenset(_KNOWN.split())
"""What py3langid 0.4 tells apart, without varieties of one language (see `distill.evaluate.language_detector`)."""

_COMMA = (
    "af az ba be bg br bs ca cs da de el eo es et eu fi fo fr fy gl hr ht hu hy id is it jv ka kab kk ku ky lb lij ln"
    " lo lt lv mk nl no pl ps pt ro ru rw se sk sl sq sr sv tg tk tr tt uk uz vec vi"
)
COMMA_LANGUAGES = frozenset(_COMMA.split())
"""Those of them that Unicode's locale data (as babel 2.19 has it) give a decimal comma. Some countries write a point
all the same, as Mexico does in Spanish."""
