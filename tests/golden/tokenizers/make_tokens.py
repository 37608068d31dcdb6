"""Writes tokens.json: ids of awkward texts, by the Python package `tokenizers` 0.23.

Beside the tokenizers of the two models of this repository there are four small ones, trained here on the book the
sample never saw, one for each other family: bytes-3.json (byte-level BPE with the pattern and begin token of Llama 3),
fallback.json (BPE over ▁ with bytes for unknown characters, as Llama 2), words.json (WordPiece, as BERT) and
unigram.json (Unigram with NFKC and an end token, as T5). Two of them carry truncation and padding, which must not count.

Run from anywhere with tokenizers installed: python3 tests/golden/tokenizers/make_tokens.py
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
BOOK = TOP / "assets" / "sample-books-6m" / "heldout_oz.txt"
VOCAB = 400
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "",
    " ",
    "a",
    "Dorothy lived in the midst of the great Kansas prairies.",
    "  two  spaces,\ttab\n\n\nlines\r\nof Windows   ",
    "It's they're I'LL don’t “quoted” — dashes… 1234567 3.14",
    "Größe naïve façade Ångström I\u0307stanbul e\u0301 ﬁ ½ Ⅷ",
    "日本語のテキスト、中文。한국어 العربية עברית हिन्दी ไทย",
    "👩‍👩‍👧‍👦🏳️‍🌈 🇩🇪 ☺️ 😀😀",
    "zero\u200bwidth\u00a0nbsp\u3000ideographic\u2028line\ufeffbom",
    "<s>not a token</s> <|endoftext|> [CLS] [MASK] ▁ Ġ <0x0A>",
    "\x00\x01\x7f\u0080 control",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 \U0010ffff",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" + " " * 50 + "!",
]


def bytes_3():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train([str(BOOK)], trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    begin = tokenizer.token_to_id("<|begin|>")
    template = processors.TemplateProcessing("<|begin|> $A", None, [("<|begin|>", begin)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return tokenizer


def fallback():
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=VOCAB + 100, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(BOOK.read_text("utf-8").split(), trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]  # bytes are tokens of the vocabulary, not added ones
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def words():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", AddedToken("[MASK]", lstrip=True)]
    tokenizer.train([str(BOOK)], trainers.WordPieceTrainer(vocab_size=VOCAB, special_tokens=specials, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=VOCAB, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train([str(BOOK)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    return tokenizer


def golden(path):
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    book = tokenizer.encode(BOOK.read_text("utf-8")).ids
    hashed = 0xCBF29CE484222325  # FNV-1a over whole ids
    for token in book:
        hashed = (hashed ^ token) * 0x100000001B3 % 2**64
    encode = lambda added: [tokenizer.encode(text, add_special_tokens=added).ids for text in TEXTS]
    decoded = [tokenizer.decode(ids, skip_special_tokens=False) for ids in encode(True)]
    return {
        "file": path.relative_to(TOP).as_posix(), "added": encode(True), "left": encode(False), "decoded": decoded,
        "book_tokens": len(book), "book_fnv": str(hashed),
    }


if __name__ == "__main__":
    for name, made in {"bytes-3": bytes_3(), "fallback": fallback(), "words": words(), "unigram": unigram()}.items():
        if name in ("words", "bytes-3"):
            made.enable_truncation(16)
            made.enable_padding(length=16)
        (HERE / f"{name}.json").write_text(made.to_str() + "\n", "utf-8")
    paths = [TOP / "assets/sample-books-6m/tokenizer.json", TOP / "tests/data/stories260K/tokenizer.json"]
    paths += [HERE / f"{name}.json" for name in ("bytes-3", "fallback", "words", "unigram")]
    tokens = {"texts": TEXTS, "tokenizers": [golden(path) for path in paths]}
    (HERE / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=True, separators=(",", ":")) + "\n", "utf-8")
