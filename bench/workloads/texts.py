"""Files, passages and records to ask about, for models that know the world. All are made up for this project."""

from __future__ import annotations

SHOP = '''\
class Basket:
    """What a customer wants to buy."""

    def __init__(self, currency: str) -> None:
        self.currency = currency
        self.lines: list[tuple[str, int, float]] = []

    def add(self, name: str, count: int, price: float) -> None:
        if count < 1:
            raise ValueError("count must be at least 1")
        self.lines.append((name, count, price))

    def total(self) -> float:
        return sum(count * price for _, count, price in self.lines)

    def receipt(self) -> str:
        rows = [f"{count} x {name}: {price:.2f} {self.currency}" for name, count, price in self.lines]
        rows.append(f"total: {self.total():.2f} {self.currency}")
        return "\\n".join(rows)
'''

SERVER = """\
[server]
host = 127.0.0.1
port = 8080
workers = 4
timeout_seconds = 30
log_level = info
log_file = /var/log/shop/server.log

[database]
host = 127.0.0.1
port = 5432
name = shop
user = shop_reader
pool_size = 8
timeout_seconds = 10

[cache]
host = 127.0.0.1
port = 6379
max_entries = 20000
timeout_seconds = 2
"""

STYLE = """\
.card {
  margin: 12px;
  padding: 16px;
  border: 1px solid #cccccc;
  border-radius: 8px;
  background: #ffffff;
}

.card h2 {
  margin: 0 0 8px 0;
  font-size: 20px;
  color: #223344;
}

.card p {
  margin: 0;
  font-size: 14px;
  line-height: 1.5;
  color: #445566;
}

.card button {
  padding: 6px 12px;
  border: none;
  border-radius: 4px;
  background: #2266cc;
  color: #ffffff;
}
"""

LETTER = """\
Dear Ms Okafor,

thank you for your visit to our workshop on the ninth of May. We were glad to show you how the bicycles are built, from
the bare frame to the last screw. As we agreed, we will deliver twelve city bicycles to your school by the end of June.
Each of them has eight gears, two hand brakes, a lamp that needs no battery, and a basket of woven willow.

The price of one bicycle is 640 euros. Because you order more than ten, we take off one tenth of that. The transport is
free. If a part breaks within two years, we replace it in your yard, and you pay nothing for the work.

Please tell us by the twentieth of May which colours you would like. We have dark green, sky blue and a warm red.

With kind regards,
Tomas Lindqvist
"""

REWRITE = (
    ("Rename the method `total` to `grand_total` in this file, and write the whole file again.", SHOP),
    ("Change the port of the database to 5433 in this file, and write the whole file again.", SERVER),
    ("Make the corners of the button 6px in this style sheet, and write the whole file again.", STYLE),
    ("Write this letter again, word for word, but with fifteen bicycles in place of twelve.", LETTER),
)
"""What to change, and the file."""

HARBOUR = """\
The old harbour of Velmar lies behind a wall of grey stone that was finished in 1742. For more than a hundred years it
was the only place on that coast where a ship could wait for the weather. The wall is eleven metres high, and at low
water its lowest step is dry. On the north side stands the lamp house, a round tower with a copper roof.

The keeper of the lamp had three duties. He lit the lamp at dusk and put it out at dawn. He wrote down every ship that
passed, with its name, its flag and the time. And he rang the bell when there was fog: four strokes, a pause of ten
breaths, then four strokes again.

The last keeper was Maren Holt, who took over from her father in 1911. Her books are kept in the town hall. They fill
twenty-seven volumes, and not one night is missing. On the second of March 1931 she wrote only this: the wind has
turned, the glass is falling, and I have tied the door. The storm of that night broke the southern end of the wall.

The lamp has been electric since 1954, and nobody has lived in the tower since. In summer the town opens it to visitors.
They climb ninety-one steps, and they see the wall, the sea and the islands as the keepers saw them.
"""

GARDEN = """\
A raised bed is a box of wood without a floor. Fill it in layers. At the bottom lie thick branches, so that water can
drain. On top of them come leaves and grass, and then a hand's width of half-rotten compost. The last layer is garden
soil, at least thirty centimetres deep.

In the first year the bed is warm, because the layers below rot. So plant what is hungry: tomatoes, pumpkins, courgettes
and cabbage. In the second and third year the bed is calmer, and carrots, beetroot, beans and lettuce grow well in it.
After that, herbs and strawberries need little and are content with what is left.

Water in the morning, and water the soil and not the leaves. A bed that stands in the sun loses as much water in a day
as a bathtub holds in its lowest hand's width. Straw between the plants keeps the soil moist, and keeps slugs away until
it is wet itself.

After five years the layers have sunk by half. Take the old soil out and spread it under shrubs. Then fill the box
again, and begin with the hungry plants.
"""

RULES = """\
Members may borrow up to six books and two films at a time. Books may be kept for four weeks, films for one week. A book
that nobody waits for may be kept for another four weeks, twice at most. Ask at the desk, by telephone or on the page of
the library.

Who returns a book late pays twenty cents for each day and each book, but never more than ten euros for one book. A
child under fourteen pays nothing. After eight weeks a book counts as lost, and its price is due.

The reading room is open from nine in the morning until ten at night, on Sundays until six. Food stays outside. Drinks
in bottles that close are welcome. Telephones are silent, and conversations are held in the hall or in the rooms on the
second floor, which groups can book for two hours.

Old newspapers and maps do not leave the building. They are read at the long table, with clean hands and a pencil. Ask
the librarian to bring them. It takes about twenty minutes, and the last order of the day is at eight in the evening.
"""

QUOTE = (
    ("Quote the paragraph about the last keeper, word for word.", HARBOUR),
    ("Quote the paragraph about the second and third year of the bed, word for word.", GARDEN),
    ("Quote the paragraph about members who return a book late, word for word.", RULES),
    ("Copy the whole text, word for word.", GARDEN),
)
"""What to quote, and the text."""

JSON = (
    (
        'Turn this list into a JSON array of objects with the fields "name", "age", "city" and "job".',
        "Anna Weber is 34 years old, lives in Graz and is a carpenter. Jonas Berg is 41 years old, lives in Bergen and "
        "is a pilot. Lucia Romano is 29 years old, lives in Turin and is a nurse. Piotr Zielinski is 52 years old, "
        "lives in Gdansk and is a baker. Mei Tanaka is 38 years old, lives in Osaka and is a teacher.",
    ),
    (
        'Turn this order into a JSON object with the fields "customer", "date" and "items". Each item has "product", '
        '"count" and "price".',
        "On 2026-03-14 the customer Hill School ordered 40 notebooks for 1.20 each, 25 boxes of crayons for 3.50 each, "
        "12 rulers for 0.80 each, 6 wall maps for 18.90 each and 2 globes for 34.00 each.",
    ),
    (
        'Turn this table into a JSON array of objects with the fields "station", "opened", "platforms" and "lift".',
        "Station Market Square opened in 1974, has 4 platforms and a lift. Station River Gate opened in 1979, has 2 "
        "platforms and no lift. Station North Park opened in 1983, has 2 platforms and a lift. Station Old Mill opened "
        "in 1991, has 3 platforms and a lift. Station Airport opened in 2004, has 2 platforms and a lift.",
    ),
    (
        'Turn these notes into a JSON array of objects with the fields "city", "temperature" and "weather".',
        "Lisbon: 24 degrees, sunny. Oslo: 11 degrees, rain. Vienna: 18 degrees, cloudy. Athens: 27 degrees, sunny. "
        "Dublin: 13 degrees, rain. Warsaw: 15 degrees, cloudy. Rome: 25 degrees, sunny. Berlin: 16 degrees, windy.",
    ),
)
"""The shape that is wanted, and what to put into it."""

CHAT = (
    ("I cannot sleep well these days. Do you have any advice?", "And what should I eat in the evening?"),
    ("We have a free weekend and a small car. Where would you go?", "My brother gets sick in cars. Does that matter?"),
    ("My neighbour plays the drums. How do I talk to him about it?", "He said no. What now?"),
    ("Tell me something about octopuses that most people do not know.", "Do they dream?"),
)
"""Turns of conversations."""
