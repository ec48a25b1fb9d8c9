"""The zip archive around a torch checkpoint: records stored side by side, never compressed, found by name.

``torch.save`` writes ``NAME/data.pkl`` (what the tensors are), ``NAME/data/KEY`` (the bytes of a storage, aligned to
64), ``NAME/byteorder`` and ``NAME/version``. The reader takes what torch writes and nothing else: one folder, no
compression, no encryption, no overlap, no name twice. The writer knows every offset before the first byte of data, and
always uses the 64-bit fields, so that a small file is laid out as a large one.

Specification: APPNOTE.TXT 6.3.10 (PKWARE), sections 4.3 and 4.5.3; torch's records: caffe2/serialize/inline_container.h
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn

from halve.checkpoint.place import RangeReader
from halve.errors import CheckpointError

MAX_DIRECTORY = 64 << 20  # bytes; 200 000 tensors take 20 MB
ALIGNMENT = 64  # of records, as torch aligns them
DAMAGED = "the file is incomplete, damaged or not what it claims to be: download or copy it again"
MAGIC = b"PK\3\4"

_LOCAL = struct.Struct("<4s5H3I2H")  # signature, version, flags, method, time, date, crc, sizes, name, extra
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_EXTRA = struct.Struct("<2H")
_ENCRYPTED = 0x2041  # flag bits of encryption and masked headers
_UTF8 = 0x0800
_STORED = 0
_VERSION = 45  # of the format, the first with 64-bit sizes
_ZIP64 = 0x0001
_PADDING = 0x4246  # torch's extra field of padding
_FULL = 0xFFFFFFFF  # in a 32-bit field: see the 64-bit one
_COMMENT = 0xFFFF


@dataclass(frozen=True, slots=True)
class Record:
    """Where the bytes of a record lie in the file."""

    begin: int
    nbytes: int

    @property
    def end(self) -> int:
        """The byte behind its last."""
        return self.begin + self.nbytes


def records_of(file: RangeReader) -> dict[str, Record]:
    """The records of an open archive by name, without the folder that all of them are in.

    Raises CheckpointError for what is no zip archive, or not one as torch writes it.
    """
    entries, directory_start = _entries(file)
    if not entries:
        _fail(file, "the archive is empty")
    folder = next(iter(entries)).partition("/")[0]
    records: dict[str, Record] = {}
    for name, (header, nbytes) in entries.items():
        if not name.startswith(f"{folder}/"):
            _fail(file, f"record {name!r} is not in the folder {folder!r} of the first")
        record = _located(file, name, header, nbytes)
        if record.end > directory_start:
            _fail(file, f"record {name!r} reaches into the directory of the archive")
        records[name.removeprefix(f"{folder}/")] = record
    ordered = sorted(records.items(), key=lambda item: (item[1].begin, item[1].end))
    for (before, first), (name, second) in pairwise(ordered):
        if second.begin < first.end:
            _fail(file, f"records {before!r} and {name!r} overlap")
    return records


def _fail(file: RangeReader, why: str, hint: str = DAMAGED) -> NoReturn:
    raise CheckpointError(f"{file.path}: {why}", hint=hint)


def _entries(file: RangeReader) -> tuple[dict[str, tuple[int, int]], int]:
    """Name -> (offset of its local header, bytes) for every entry, and where the directory begins."""
    count, size, start = _directory(file)
    if size > MAX_DIRECTORY:
        _fail(file, f"a directory of {size} bytes is more than the {MAX_DIRECTORY} that are allowed")
    raw = file.read(start, size)
    entries: dict[str, tuple[int, int]] = {}
    at = 0
    while at < size:
        if size - at < _CENTRAL.size:
            _fail(file, "the directory of the archive ends in the middle of an entry")
        fields = _CENTRAL.unpack_from(raw, at)
        flags, method, packed, plain, offset = fields[3], fields[4], fields[8], fields[9], fields[16]
        name_at = at + _CENTRAL.size
        extra_at = name_at + fields[10]
        at = extra_at + fields[11] + fields[12]
        if fields[0] != b"PK\1\2" or at > size:
            _fail(file, "the directory of the archive is damaged")
        name = _name(file, raw[name_at:extra_at])
        if name in entries:
            _fail(file, f"two records are called {name!r}")
        if method != _STORED or flags & _ENCRYPTED:
            _fail(
                file,
                f"record {name!r} is compressed or encrypted, as no state dict is (a TorchScript program?)",
                "load it with torch where you trust it, and save it again",
            )
        wide = _wide(raw[extra_at : extra_at + fields[11]])
        if (plain, packed, offset).count(_FULL) > len(wide):
            _fail(file, f"record {name!r}: its 64-bit size is missing")
        # The 64-bit field has those, in this order, that do not fit their 32 bits.
        plain, packed, offset = (wide.pop(0) if value == _FULL else value for value in (plain, packed, offset))
        if plain != packed:
            _fail(file, f"record {name!r} has two sizes, {plain} and {packed}")
        entries[name] = offset, plain
    if len(entries) != count:
        _fail(file, f"the archive promises {count} records and lists {len(entries)}")
    return entries, start


def _name(file: RangeReader, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        _fail(file, f"the name of a record, {raw[:40]!r}, is not UTF-8")


def _wide(extra: bytes) -> list[int]:
    """The numbers of the 64-bit extra field."""
    at = 0
    while at + _EXTRA.size <= len(extra):
        kind, length = _EXTRA.unpack_from(extra, at)
        at += _EXTRA.size
        if kind == _ZIP64:
            body = extra[at : at + length]
            return [number for (number,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        at += length
    return []


def _directory(file: RangeReader) -> tuple[int, int, int]:
    """Number of entries, size and offset of the directory, from the records at the file's end."""
    tail_start = max(file.size - _END.size - _COMMENT, 0)
    tail = file.read(tail_start, file.size - tail_start)
    at = tail.rfind(b"PK\5\6")
    while at >= 0 and (len(tail) - at < _END.size or at + _END.size + _END.unpack_from(tail, at)[7] != len(tail)):
        at = tail.rfind(b"PK\5\6", 0, at)
    if at < 0:
        _fail(file, "the end of a zip archive is missing", "the file was cut off: download or copy it again")
    _, disk, first_disk, _, count, size, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    if end >= _LOCATOR.size:
        signature, disk64, end64, _ = _LOCATOR.unpack(file.read(end - _LOCATOR.size, _LOCATOR.size))
        if signature == b"PK\6\7":
            disk = disk or disk64
            if end64 + _END64.size > end:
                _fail(file, "the 64-bit end of the archive lies outside the file")
            signature, _, _, _, _, _, _, count, size, start = _END64.unpack(file.read(end64, _END64.size))
            if signature != b"PK\6\6":
                _fail(file, "the 64-bit end of the archive is not where it should be")
            end = end64
    if disk or first_disk:
        _fail(file, "one part of a split archive")
    if start + size > end:
        _fail(file, "the directory of the archive lies outside the file")
    return count, size, start


def _located(file: RangeReader, name: str, header: int, nbytes: int) -> Record:
    if header + _LOCAL.size > file.size:
        _fail(file, f"record {name!r} lies outside the file")
    fields = _LOCAL.unpack(file.read(header, _LOCAL.size))
    begin = header + _LOCAL.size + fields[9] + fields[10]
    if fields[0] != MAGIC or begin + nbytes > file.size:
        _fail(file, f"record {name!r} is not where the directory of the archive says")
    if file.read(header + _LOCAL.size, fields[9]) != name.encode():
        _fail(file, f"record {name!r} has another name where it lies")
    return Record(begin, nbytes)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Where everything of an archive to be written lies: its records, and what stands between them."""

    folder: str
    headers: Mapping[str, int]  # offsets of the local headers
    records: Mapping[str, Record]
    directory: int
    nbytes: int

    def header(self, name: str, crc: int) -> bytes:
        """What stands in front of the record ``name``, whose bytes have the checksum ``crc``."""
        full, record = f"{self.folder}/{name}".encode(), self.records[name]
        fields = (MAGIC, _VERSION, _UTF8, _STORED, 0, _EPOCH, crc, _FULL, _FULL)
        sizes = _EXTRA.pack(_ZIP64, 16) + struct.pack("<2Q", record.nbytes, record.nbytes)
        padding = record.begin - self.headers[name] - _LOCAL.size - len(full) - len(sizes) - _EXTRA.size
        extra = sizes + _EXTRA.pack(_PADDING, padding) + b"Z" * padding
        return _LOCAL.pack(*fields, len(full), len(extra)) + full + extra

    def trailer(self, crcs: Mapping[str, int]) -> bytes:
        """The directory and the end of the archive."""
        out = bytearray()
        for name, record in self.records.items():
            full = f"{self.folder}/{name}".encode()
            extra = _EXTRA.pack(_ZIP64, 24) + struct.pack("<3Q", record.nbytes, record.nbytes, self.headers[name])
            versions = (_VERSION, _VERSION, _UTF8, _STORED, 0, _EPOCH)
            lengths = (len(full), len(extra), 0, 0, 0, 0)
            out += _CENTRAL.pack(b"PK\1\2", *versions, crcs[name], _FULL, _FULL, *lengths, _FULL) + full + extra
        count, size = len(self.records), len(out)
        out += _END64.pack(b"PK\6\6", _END64.size - 12, _VERSION, _VERSION, 0, 0, count, count, size, self.directory)
        out += _LOCATOR.pack(b"PK\6\7", 0, self.directory + size, 1)
        return bytes(out + _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _FULL, _FULL, 0))


_EPOCH = 0x0021  # 1 January 1980, the first day that the format knows: the same bytes every day


def blueprint(folder: str, sizes: Iterable[tuple[str, int]]) -> Blueprint:
    """Lay out records of these names and sizes, in this order."""
    headers: dict[str, int] = {}
    records: dict[str, Record] = {}
    at = 0
    directory = 0
    for name, nbytes in sizes:
        headers[name] = at
        full = len(f"{folder}/{name}".encode())
        before = at + _LOCAL.size + full + _EXTRA.size + 16 + _EXTRA.size
        begin = -(-before // ALIGNMENT) * ALIGNMENT
        records[name] = Record(begin, nbytes)
        at = begin + nbytes
        directory += _CENTRAL.size + full + _EXTRA.size + 24
    return Blueprint(folder, headers, records, at, at + directory + _END64.size + _LOCATOR.size + _END.size)
