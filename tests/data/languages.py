"""Sentences in several languages, and encodings that their files have; for tests of the detection."""

# ruff: noqa: RUF001 - letters that look like others are what this is about

from __future__ import annotations

import random

SENTENCES = {
    ("cp1252", "mac_roman"): [
        "Le café est fermé à midi",
        "C'est déjà l'été, ça va être très agréable",
        "Die Straße ist gesperrt",
        "Schöne Grüße aus München",
        "El niño está en la montaña",
        "Não gostei da edição",
        "Jag älskar den här boken",
    ],
    ("cp1252",): ["It’s a “great” film – really", "a café in Zürich", "£20 was too much", "5 € only"],
    ("cp1250", "iso8859_2"): [
        "Zażółć gęślą jaźń",
        "Proszę bardzo, dziękuję",
        "Příliš žluťoučký kůň úpěl",
        "Őszintén szólva csalódtam",
    ],
    ("cp1251", "koi8_r"): ["Привет, как дела", "Товар не работает", "Доставка была быстрой, спасибо"],
    ("cp1253",): ["Πολύ καλό βιβλίο", "Δεν λειτουργεί σωστά", "Το προϊόν έφτασε γρήγορα"],
    ("cp1254",): ["Çok güzel bir ürün", "Kargo geç geldi, şikayetçiyim", "İstanbul'da yağmur yağıyor"],
    ("cp1255",): ["ספר טוב מאוד", "המוצר לא עובד", "תודה רבה על העזרה"],
    ("cp1256",): ["كتاب جيد جدا", "المنتج لا يعمل", "شكرا على المساعدة"],
    ("cp1257",): ["Labai gera knyga, ačiū", "Prekė neveikia, grąžinsiu", "Šiandien graži diena"],
    ("cp932", "euc_jp"): ["とても良い本です", "商品が動きません", "速く届きました"],
    ("gb18030",): ["这本书很好", "产品不能用", "非常感谢你的帮助"],
    ("big5",): ["這本書很好", "產品不能用", "非常感謝你的幫助"],
    ("cp949",): ["아주 좋은 책입니다", "제품이 작동하지 않아요", "도와주셔서 감사합니다"],
}
_ENGLISH = ["the film was great and I loved it", "bad service, will not come back", "cheap but fast delivery"]


def sample(seed: int) -> tuple[str, str]:
    """Return the text of a random CSV file and its encoding; some of the rows have English words, too."""
    chosen = random.Random(seed)  # noqa: S311 - a test
    encodings = chosen.choice(list(SENTENCES))
    share = chosen.choice([0, 0, 0.5, 1])
    lines = ["text,label"]
    for _ in range(chosen.choice([1, 3, 10, 40])):
        sentence = chosen.choice(SENTENCES[encodings])
        if chosen.random() < share:
            sentence = f"{chosen.choice(_ENGLISH)} {sentence} {chosen.choice(_ENGLISH)}"
        lines.append(f'"{sentence}",{chosen.choice(["pos", "neg"])}')
    return "\n".join(lines), chosen.choice(encodings)
