"""Ways to damage a DICOM file: each changes its bytes once, where a generator of chance says."""

import struct

VRS = (b"UI", b"LO", b"DS", b"IS", b"SQ", b"OB", b"OW", b"UN", b"US", b"FD", b"AT", b"ZZ", b"PN")


def flip_bits(rng, data):
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_header_bits(rng, data):
    for _ in range(rng.choice((1, 2, 5, 20))):
        data[rng.randrange(min(len(data), 2600))] ^= 1 << rng.randrange(8)


def flip_last_bits(rng, data):
    for _ in range(rng.choice((1, 2, 5, 20))):
        data[-rng.randrange(1, min(len(data), 1200))] ^= 1 << rng.randrange(8)


def cut(rng, data):
    del data[rng.randrange(len(data)) :]


def cut_the_end(rng, data):
    del data[-rng.randrange(1, min(len(data), 900)) :]


def take_out(rng, data):
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 8, 100))]


def put_in(rng, data):
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 2, 8, 100)))


def overwrite(rng, data):
    at = rng.randrange(len(data))
    n = rng.choice((2, 4, 16, 64))
    data[at : at + n] = rng.choice((rng.randbytes(n), bytes(n), b"\xff" * n))


def repeat(rng, data):
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((8, 64, 512))]


def _element(rng, data):
    """Return where an explicit element of group 8, 10, 18, 20 or 28 seems to begin."""
    places = [
        at
        for at in range(132, min(len(data), 3000) - 8, 2)
        if data[at] in (0x02, 0x08, 0x10, 0x18, 0x20, 0x28) and data[at + 1] == 0
    ]
    return rng.choice(places) if places else 0


def damage_vr(rng, data):
    at = _element(rng, data)
    data[at + 4 : at + 6] = rng.choice(VRS)


def damage_length(rng, data):
    at = _element(rng, data)
    data[at + 6 : at + 8] = struct.pack("<H", rng.choice((0, 1, 3, 255, 0x7FFF, 0xFFFF)))


def damage_tag(rng, data):
    at = _element(rng, data)
    data[at : at + 4] = struct.pack(
        "<HH", rng.choice((2, 8, 0x28, 0x7FE0, 0xFFFE)), rng.choice((0x10, 0x11, 0xE000, 0xE0DD))
    )


def damage_value(rng, data):
    at = _element(rng, data)
    n = rng.randrange(1, 20)
    data[at + 8 : at + 8 + n] = rng.choice(
        (rng.randbytes(n), b"9" * n, b"-1\\1e9\\NaN  "[:n], bytes(n))
    )


DAMAGES = [
    *(flip_bits, flip_header_bits, flip_last_bits, cut, cut_the_end, take_out, put_in, overwrite),
    *(repeat, damage_vr, damage_length, damage_tag, damage_value),
]
