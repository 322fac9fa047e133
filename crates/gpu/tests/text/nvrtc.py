"""Compiles the CUDA text of kernels for sm_90a with NVRTC, which needs no card, and fails on errors and on more than
a few spilled registers.

    pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl
    LONGREACH_CUDA_TEXT=folder cargo test -p longreach-gpu --features text --test text
    python crates/gpu/tests/text/nvrtc.py folder
"""

import concurrent.futures
import ctypes
import pathlib
import re
import sys
import sysconfig

# Bytes a thread that may be spilled. CubeCL states no minimum of blocks, so that the assembler, which aims at full
# occupancy, limits some kernels to 64 registers and spills a few rather than use more.
SPILLED = 128


def library():
    """NVRTC of the Python package, and the folders of CUDA's headers."""
    for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        root = pathlib.Path(path) / "nvidia"
        for found in sorted(root.glob("**/libnvrtc.so.*")):
            includes = {header.parent for header in root.glob("**/cuda_fp16.h")}
            includes |= {folder.parent for folder in root.glob("**/cccl/cuda") if (folder / "std").is_dir()}
            # The builtins are found beside the library once they are loaded.
            for builtins in found.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(found)), sorted(includes)
    sys.exit("NVRTC was not found: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl")


def compile_text(nvrtc, options, name, text):
    """Whether the text compiles, and the log of compiler and assembler."""
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    if status != 0:
        sys.exit(f"{name}: NVRTC makes no program: error {status}")
    strings = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    status = nvrtc.nvrtcCompileProgram(program, len(options), strings)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0, log.value.decode(errors="replace")


def checked(file):
    """What the log says of a file: whether it is good, its registers, its spills, its shared memory, and the log."""
    nvrtc, includes = library()
    options = ["--gpu-architecture=sm_90a", "--ptxas-options=-v", *(f"--include-path={path}" for path in includes)]
    text = file.read_text()
    good, log = compile_text(nvrtc, options, file.name, text)
    registers = max([int(n) for n in re.findall(r"Used (\d+) registers", log)], default=0)
    spills = max([int(n) for n in re.findall(r"(\d+) bytes spill", log)], default=0)
    return good and registers > 0, registers, spills, int(re.search(r"// shared (\d+)", text).group(1)), log


def main():
    files = sorted(pathlib.Path(sys.argv[1]).glob("*.cu"))
    if not files:
        sys.exit(f"{sys.argv[1]} has no .cu files")
    failed, spilling, most = 0, 0, (0, 0, 0)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for file, (good, registers, spills, shared, log) in zip(files, pool.map(checked, files)):
            if not good or spills > SPILLED or shared > 227 * 1024:
                failed += 1
                print(f"{file.name}: compiled {good}, {spills} bytes spilled, {shared} of shared memory\n{log}")
            spilling += spills > 0
            most = tuple(map(max, most, (registers, spills, shared)))
    print(f"{len(files) - failed} of {len(files)} kernels compile for sm_90a; {spilling} spill; at most {most[0]} registers, "
          f"{most[1]} bytes spilled and {most[2]} bytes of shared memory")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
