"""Texts on which tokenizers of different makers have disagreed."""

NASTY = [
    "",
    " ",
    "L'été, où ça ? Là-bas : cœur, naïveté, Noël… « oui »",
    "e\u0301te\u0301 vs été; Cửa Việt, Ångström Å Å",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 👍🏽 ❤️ 😶‍🌫️ \U0001faf6",
    "اللغة العربية جميلة، وَالْقُرْآنُ ١٢٣",
    "我想在apple工作1314151天～ 中文，日本語のテスト、한국어",
    "नमस्ते दुनिया, สวัสดีชาวโลก, កាន់តែពិសេស",
    "def f(x):\n\tif x >= 10:\n        return {'a': [1, 2.5e-3], **x}  # 100%\n\n\n",
    "#include <stdio.h>\r\nint main(void) { return 0x7F; }\r\n\r\n\r\n",
    "3 33 333 3333 33333 333333 3,333.33 -1e10 2026-11-22 ½ ² Ⅷ ٣",
    " a  b   c    d                 e\t\tf\u00a0g\u2003h\u3000i\u2028j",
    "   leading, trailing   \n \n  \n\t\n",
    "don't I'LL you'RE we'Ve 'S ''' o'clock rock'n'roll qu'il l'avion aujourd'hui",
    "a" * 500 + "=" * 300 + " " * 200 + "!?" * 100,
    "\x00\x01\x1b[0m\x7f\ufeff\u200b\ufffd\U0010ffff",
    "<s></s> <|im_end|> <|endoftext|> <｜User｜>hi<｜Assistant｜> <bos><start_of_turn>user\n <|eot_id|><think>\n",
    "<0x0A> ▁ ▁▁ Ġ Ċ Ã© [PAD5] <unk> <br> <unused3>",
    "http://user@example.org:80/a?b=c&d=%20#é_foo--bar/../../",
    "The quick brown fox jumps over the lazy dog. " * 5,
]
