"""Makes the goldens of the GGUF reader and writer with the `gguf` package of llama.cpp.

    pip install gguf==0.19.0 numpy
    python make.py

It writes next to itself:

    values.gguf        a value and an array of every type, and no tensors
    tensors.gguf       a tensor of every type that the package knows, except Q8_1, whose block it takes for 40 bytes; in
                       llama.cpp it has 36, and no file contains any
    shapes.gguf        tensors of one to four axes, with an alignment of 64
    version-2.gguf     the same as shapes.gguf, in version 2 of the format
    big-endian.gguf    the same as shapes.gguf, with all bytes swapped
    split-0000?-of-00003.gguf  five tensors in three parts

The data of a tensor are bytes that count, times 31, modulo 251, from a number for each tensor: tests make the same.

Made with gguf 0.19.0.
"""

import pathlib

import gguf
import gguf.gguf_writer
import numpy
from gguf import GGMLQuantizationType, GGUFEndian, GGUFValueType, GGUFWriter

HERE = pathlib.Path(__file__).resolve().parent


def data(start, shape):
    count = int(numpy.prod(shape))
    return ((start + 31 * numpy.arange(count)) % 251).astype(numpy.uint8).reshape(shape)


def write(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def values():
    writer = GGUFWriter(HERE / "values.gguf", "llama")
    writer.add_uint8("u8", 2**8 - 1)
    writer.add_int8("i8", -(2**7))
    writer.add_uint16("u16", 2**16 - 1)
    writer.add_int16("i16", -(2**15))
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.1)
    writer.add_float64("f64", 1e300)
    writer.add_bool("true", True)
    writer.add_bool("false", False)
    writer.add_string("string", "žluťoučký kůň\n")
    arrays = {
        "uint8": [0, 1, 255],
        "int8": [-128, 127],
        "uint16": [65535],
        "int16": [-32768, 3],
        "uint32": [1, 2, 3, 4, 5, 6, 7, 8],
        "int32": [-1, 0, 1],
        "uint64": [2**63],
        "int64": [-(2**40), 2**40],
        "float32": [0.5, -1.5, float("inf")],
        "float64": [1e-300],
        "bool": [True, False, True],
        "string": ["", "a b", "\u2581the"],
    }
    for name, array in arrays.items():
        writer.add_key_value(f"array.{name}", array, GGUFValueType.ARRAY, sub_type=GGUFValueType[name.upper()])
    # Texts of tokens are bytes: these are half a character, and none.
    writer.add_array("tokens", [b"\xe2\x96", b"", b"\xff\x00"])
    write(writer)


def tensors():
    writer = GGUFWriter(HERE / "tensors.gguf", "llama")
    for kind in GGMLQuantizationType:
        if kind != GGMLQuantizationType.Q8_1:
            _, size = gguf.GGML_QUANT_SIZES[kind]
            # Two rows of three blocks.
            writer.add_tensor(f"of.{kind.name}", data(kind, (2, 3 * size)), raw_dtype=kind)
    write(writer)


def shapes(name, endianness=GGUFEndian.LITTLE):
    writer = GGUFWriter(HERE / name, "llama", endianess=endianness)
    writer.add_custom_alignment(64)
    writer.add_uint32("llama.block_count", 1)
    for start, shape in enumerate([(5,), (2, 3), (1, 2, 7), (2, 1, 3, 4)]):
        writer.add_tensor(f"axes.{len(shape)}", data(start, shape).view(numpy.int8))
    writer.add_tensor("matrix", data(9, (3, 8)).view(numpy.float32))
    write(writer)


def split():
    writer = GGUFWriter(HERE / "split.gguf", "llama", split_max_size=200)
    writer.add_uint32("llama.block_count", 2)
    for start, rows in enumerate([12, 12, 24, 1, 1]):
        writer.add_tensor(f"t.{start}", data(start, (rows, 8)).view(numpy.float32))
    write(writer)


if __name__ == "__main__":
    values()
    tensors()
    shapes("shapes.gguf")
    shapes("big-endian.gguf", GGUFEndian.BIG)
    gguf.gguf_writer.GGUF_VERSION = 2
    shapes("version-2.gguf")
    gguf.gguf_writer.GGUF_VERSION = 3
    split()
