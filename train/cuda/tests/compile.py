"""Compiles the CUDA kernels by NVRTC as training does when it starts; needs no GPU.

Usage: python compile.py FOLDER    where pip has put the package nvidia-cuda-nvrtc
"""

import ctypes
import pathlib
import re
import sys

ARCHITECTURES = ["compute_80", "compute_90", "compute_100"]

source_folder = pathlib.Path(__file__).parent.parent / "src"
names = re.findall(r'include_str!\("(.+?)"\)', (source_folder / "launch.rs").read_text())
source = "".join((source_folder / name).read_text() for name in names).encode()
folder = pathlib.Path(sys.argv[1])
# NVRTC looks for it by name only.
builtins = ctypes.CDLL(str(next(folder.rglob("libnvrtc-builtins.so.*"))))
library = next(folder.rglob("libnvrtc.so.*"))
nvrtc = ctypes.CDLL(str(library))


def checked(status):
    if status != 0:
        sys.exit(f"{library.name}: status {status}")


def compile_for(architecture):
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    checked(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None))
    option = (ctypes.c_char_p * 1)(f"--gpu-architecture={architecture}".encode())
    status = nvrtc.nvrtcCompileProgram(program, 1, option)
    checked(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    log = ctypes.create_string_buffer(size.value)
    checked(nvrtc.nvrtcGetProgramLog(program, log))
    if status != 0 or log.value:
        sys.exit(f"{architecture}: status {status}\n{log.value.decode()}")
    checked(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)))
    ptx = ctypes.create_string_buffer(size.value)
    checked(nvrtc.nvrtcGetPTX(program, ptx))
    return ptx.value.count(b".entry")


assert names, "no sources in launch.rs"
for each in ARCHITECTURES:
    print(f"{each}: {compile_for(each)} kernels")
