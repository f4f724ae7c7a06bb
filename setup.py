"""Build the Cython modules. All other packaging settings are in pyproject.toml.

Each kernel is compiled once per instruction-set level in `LEVELS`, into `gpt_core/kernels/<level>/`; the package
chooses one at import (`gpt_core/kernels/_runtime`), so one wheel is fast on every machine of an architecture.

Environment variables:
    GPT_TUI_BLAS=NAME: Link the pkg-config package NAME (for example openblas) instead of the scipy-openblas32 wheel.
    GPT_TUI_SANITIZE=1: Build with the address and undefined-behavior sanitizers of gcc and clang.
    GPT_TUI_CHECK_BOUNDS=1: Let Cython check every array index. `.ci/run` uses this and the sanitizers.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools._distutils.ccompiler import new_compiler
from setuptools._distutils.sysconfig import customize_compiler
from setuptools.command.build_ext import build_ext

KERNELS = sorted(path.stem for path in Path("gpt_core/kernels").glob("*.pyx"))
COMPILED_ONCE = sorted(
    str(path) for folder in ("kernels/_runtime", "tokenizers") for path in Path("gpt_core", folder).glob("*.pyx")
)
SHARED_UTILITY = "gpt_core._cython_utility"
HEADERS = sorted(str(path) for path in Path("gpt_core/kernels").glob("*.h"))
GENERATED = Path("build/cython")
X86_64 = platform.machine().lower() in ("x86_64", "amd64")
MSVC = sys.platform == "win32"

COMPILING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"}  # commands that compile

# Compiler flags of each level, slowest level first.
LEVELS = {"baseline": []}
if X86_64:
    LEVELS["x86_64_v3"] = ["/arch:AVX2"] if MSVC else ["-march=x86-64-v3"]
    LEVELS["x86_64_v4"] = ["/arch:AVX512"] if MSVC else ["-march=x86-64-v4"]
    if not MSVC:
        LEVELS["x86_64_v4_bf16"] = ["-march=x86-64-v4", "-mavx512bf16"]
    if sys.platform == "linux":
        LEVELS["x86_64_v4_amx"] = ["-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
if platform.machine() == "aarch64" and sys.platform == "linux":
    LEVELS["aarch64_bf16"] = ["-march=armv8.2-a+bf16"]

if sys.platform == "darwin":  # a Python for two architectures would compile the flags of one for the other, too
    os.environ.setdefault("ARCHFLAGS", f"-arch {platform.machine()}")

# Checked builds have the first level that uses `matrix_product.h`, if any, and that with emulated tiles (`tiles.h`); on
# Arm also the baseline, because many processors have nothing else.
# Of several -O and -g flags on a command line, the last one counts.
SANITIZE = bool(os.environ.get("GPT_TUI_SANITIZE"))
CHECK_BOUNDS = bool(os.environ.get("GPT_TUI_CHECK_BOUNDS"))
SANITIZER_FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer",
                   "-O1", "-g1"]  # fmt: skip
if SANITIZE or CHECK_BOUNDS:
    levels = list(LEVELS.items())
    LEVELS = dict(levels[1:2] if X86_64 else levels[:2])
    if X86_64 and not MSVC:
        LEVELS["emulated_tiles"] = [*LEVELS["x86_64_v3"], "-DGPT_EMULATED_TILES"]

DIRECTIVES = {
    "language_level": 3, "boundscheck": CHECK_BOUNDS, "wraparound": False, "initializedcheck": CHECK_BOUNDS,
    "cdivision": True, "binding": True, "embedsignature": True, "show_performance_hints": not CHECK_BOUNDS,
}  # fmt: skip
BASE_FLAGS = ["/O2"] if MSVC else ["-O3", "-g0"]

# Let the compiler reorder sums and ignore errno, so that loops over exp and tanh vectorize. The rest of -ffast-math is
# left out: NaN and infinity keep their meaning, and denormal numbers are not flushed to zero.
KERNEL_FLAGS = ["/O2"] if MSVC else ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math",
                                     "-fno-signed-zeros", "-fno-strict-aliasing", "-g0"]  # fmt: skip


def blas() -> dict[str, list]:
    """Return the build options for cblas.

    It comes from the pkg-config package that GPT_TUI_BLAS names, else from Accelerate on macOS and from the
    scipy-openblas32 wheel elsewhere.
    """
    if name := os.environ.get("GPT_TUI_BLAS"):
        words = subprocess.check_output(["pkg-config", "--cflags", "--libs", name], text=True).split()
        return {
            "extra_compile_args": [word for word in words if word[:2] in ("-I", "-D")],
            "extra_link_args": [word for word in words if word[:2] not in ("-I", "-D")],
        }
    if sys.platform == "darwin":
        return {
            "define_macros": [("ACCELERATE_NEW_LAPACK", None), ("GPT_ACCELERATE", None)],
            "extra_link_args": ["-framework", "Accelerate"],
        }
    import scipy_openblas32

    rpath = [] if MSVC else ["-Wl,-rpath,$ORIGIN/../../../scipy_openblas32/lib"]
    return {
        "define_macros": [("GPT_SCIPY_OPENBLAS", None)],
        "include_dirs": [scipy_openblas32.get_include_dir()],
        "library_dirs": [scipy_openblas32.get_lib_dir()],
        "libraries": [scipy_openblas32.get_library()],
        "extra_link_args": rpath,
    }


class BuildExt(build_ext):
    """build_ext that compiles in parallel, and with OpenMP if the compiler supports it."""

    def initialize_options(self) -> None:
        """Run one compiler per core."""
        super().initialize_options()
        self.parallel = os.cpu_count()

    def build_extensions(self) -> None:
        """Add the flags that depend on the compiler, then build."""
        if openmp := self.openmp_flag():
            for extension in self.extensions:
                extension.extra_compile_args.append(openmp)
                if not MSVC:
                    extension.extra_link_args.append(openmp)
        else:
            print("gpt-tui: this compiler does not support OpenMP; the kernels will use one thread", file=sys.stderr)
        if CHECK_BOUNDS and not MSVC:
            for extension in self.extensions:
                # caused by variables that Cython adds for tracebacks
                extension.extra_compile_args.append("-Wno-maybe-uninitialized")
        if SANITIZE:
            for extension in self.extensions:
                extension.extra_compile_args.extend(SANITIZER_FLAGS)
                extension.extra_link_args.extend(SANITIZER_FLAGS)
        super().build_extensions()

    def copy_extensions_to_source(self) -> None:
        """Create the folders of the levels, which are not packages, before an in-place build copies into them."""
        for level in LEVELS:
            Path("gpt_core/kernels", level).mkdir(exist_ok=True)
        super().copy_extensions_to_source()

    def openmp_flag(self) -> str | None:
        """Return the flag that enables OpenMP, or None if a small program does not compile with it."""
        flag = "/openmp" if MSVC else "-fopenmp"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <omp.h>\nint probe(void) { return omp_get_max_threads(); }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=[flag])
            except Exception:
                return None
        return flag


def compiler_command() -> list[str]:
    """Return the command that compiles a Python module."""
    compiler = new_compiler()
    customize_compiler(compiler)
    return list(compiler.compiler_so)


def compiles(command: list[str], code: str, *flags: str) -> bool:
    """Return True if a small program compiles."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(f"{code}\nint probe(void) {{ return 0; }}\n")
        words = [*command, *flags, "-c", str(source), "-o", str(source.with_suffix(".o"))]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0


def compiler_problem() -> str:
    """Return in one line what is missing to compile a Python module, "" if nothing is (on Windows: not checked)."""
    if MSVC:
        return ""
    command = compiler_command()
    install = (
        "xcode-select --install" if sys.platform == "darwin" else "apt install build-essential, or dnf install gcc"
    )
    if shutil.which(command[0]) is None:
        return (
            f"gpt-tui: no C compiler: got {command[0]!r}, which is not installed; install one ({install}), or install "
            "a wheel"
        )
    include = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    for line, missing in (
        ("#include <stdlib.h>", f"a C compiler that works ({command[0]!r} does not: {install})"),
        ("#include <Python.h>", "the headers of Python (apt install python3-dev, or dnf install python3-devel)"),
    ):
        if not compiles(command, line, *include):
            return f"gpt-tui: cannot compile; install {missing}"
    return ""


def leave_out_levels() -> None:
    """Leave out the levels whose instructions the compiler does not know, as gcc before version 11."""
    for level, flags in list(LEVELS.items()):
        if not MSVC and not compiles(compiler_command(), "", *flags):
            print(f"gpt-tui: no kernels for {level}: the compiler does not know {' '.join(flags)}", file=sys.stderr)
            del LEVELS[level]


def extensions() -> list[Extension]:
    """Return the extensions: one per tokenizer and runtime module, and one per kernel and level."""
    utility = Extension(SHARED_UTILITY, [SHARED_UTILITY.replace(".", "/") + ".c"], extra_compile_args=[*BASE_FLAGS])
    once = [
        Extension(path.removesuffix(".pyx").replace(os.sep, "."), [path], extra_compile_args=[*BASE_FLAGS])
        for path in COMPILED_ONCE
    ]
    kernels = [Extension(f"gpt_core.kernels.{name}", [f"gpt_core/kernels/{name}.pyx"]) for name in KERNELS]
    generated = cythonize(
        [utility, *once, *kernels],
        build_dir=str(GENERATED),
        shared_utility_qualified_name=SHARED_UTILITY,
        compiler_directives=DIRECTIVES,
        nthreads=0,
    )
    kernel_names = {kernel.name for kernel in kernels}
    built = [extension for extension in generated if extension.name not in kernel_names]
    for kernel in (extension for extension in generated if extension.name in kernel_names):
        name = kernel.name.rpartition(".")[2]
        for level, flags in LEVELS.items():
            # One copy per level, because object files are named after their source.
            source = GENERATED / level / f"{name}.c"
            source.parent.mkdir(parents=True, exist_ok=True)
            if not source.exists() or source.read_bytes() != Path(kernel.sources[0]).read_bytes():
                shutil.copyfile(kernel.sources[0], source)
            options = blas()
            options["extra_compile_args"] = [*options.get("extra_compile_args", []), *KERNEL_FLAGS, *flags]
            if name == "gemm" and not MSVC:  # sums in a fixed order, so that their bits do not depend on the tile
                options["extra_compile_args"].append("-fno-associative-math")
            options["include_dirs"] = [*options.get("include_dirs", []), "gpt_core/kernels"]
            built.append(Extension(f"gpt_core.kernels.{level}.{name}", [str(source)], depends=HEADERS, **options))
    return built


# Checked before anything is compiled: the errors of every module would hide the reason.
if COMPILING & set(sys.argv):
    if problem := compiler_problem():
        sys.exit(problem)
    leave_out_levels()

# The default corpus is installed as the package gpt_core.data (`package-dir` in pyproject.toml).
PACKAGES = [*find_packages(include=["gpt_core*", "gpt_tui*"]), "gpt_core.data"]

setup(packages=PACKAGES, ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
