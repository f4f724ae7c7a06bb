"""Build the Cython modules. Everything else is in pyproject.toml.

Each kernel is compiled once per instruction-set level in `LEVELS`, into `gpt_core/kernels/<level>/`. The package
selects one at import (`gpt_core/kernels/__init__.py`), so that one wheel is fast on every machine of an architecture.

Environment: GPT_TUI_BLAS=NAME links the pkg-config package NAME (such as openblas) in place of scipy-openblas32.
GPT_TUI_SANITIZE=1 builds for the address and undefined-behaviour sanitizers of gcc and clang, GPT_TUI_CHECK_BOUNDS=1
with every index of an array checked by Cython (`.ci/run` shows the use of both).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

KERNELS = sorted(path.stem for path in Path("gpt_core/kernels").glob("*.pyx"))
PLAIN = sorted(str(path) for path in [*Path("gpt_core").glob("*.pyx"), *Path("gpt_core/tokenizers").glob("*.pyx")])
SHARED_UTILITY = "gpt_core._cython_utility"
HEADERS = sorted(str(path) for path in Path("gpt_core/kernels").glob("*.h"))
GENERATED = Path("build/cython")
X86_64 = platform.machine().lower() in ("x86_64", "amd64")
MSVC = sys.platform == "win32"

# level: compiler flags; the order is the order of preference, last first
LEVELS = {"baseline": []}
if X86_64:
    LEVELS["x86_64_v3"] = ["/arch:AVX2"] if MSVC else ["-march=x86-64-v3"]
    LEVELS["x86_64_v4"] = ["/arch:AVX512"] if MSVC else ["-march=x86-64-v4"]

# One level is enough to find errors: one that uses our own matrix product, if there is one.
# The last -O and -g on a command line take effect.
SANITIZE = bool(os.environ.get("GPT_TUI_SANITIZE"))
CHECK_BOUNDS = bool(os.environ.get("GPT_TUI_CHECK_BOUNDS"))
SANITIZER_FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer",
                   "-O1", "-g1"]  # fmt: skip
if SANITIZE or CHECK_BOUNDS:
    LEVELS = dict([list(LEVELS.items())[min(1, len(LEVELS) - 1)]])

DIRECTIVES = {
    "language_level": 3, "boundscheck": CHECK_BOUNDS, "wraparound": False, "initializedcheck": CHECK_BOUNDS,
    "cdivision": True, "binding": True, "embedsignature": True, "show_performance_hints": not CHECK_BOUNDS,
}  # fmt: skip
PLAIN_FLAGS = ["/O2"] if MSVC else ["-O3", "-g0"]

# Sums may be reordered and errno ignored, so that loops over exp and tanh vectorize. The rest of -ffast-math stays off:
# NaN and infinity must keep their meaning, and flush-to-zero would be set for the process.
VECTORIZE = ["/O2"] if MSVC else ["-O3", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math",
                                  "-fno-signed-zeros", "-fno-strict-aliasing", "-g0"]  # fmt: skip


def blas() -> dict[str, list]:
    """Return the options for linking cblas: a named pkg-config package, Accelerate on macOS, else scipy-openblas32."""
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
    """build_ext that compiles in parallel, with OpenMP where the compiler supports it."""

    def initialize_options(self) -> None:
        """Run one compiler per core."""
        super().initialize_options()
        self.parallel = os.cpu_count()

    def build_extensions(self) -> None:
        """Add the flags that depend on the compiler."""
        if openmp := self.openmp_flag():
            for extension in self.extensions:
                extension.extra_compile_args.append(openmp)
                if not MSVC:
                    extension.extra_link_args.append(openmp)
        else:
            print("gpt-tui: this compiler has no OpenMP: the kernels will use one thread", file=sys.stderr)
        if CHECK_BOUNDS and not MSVC:
            for extension in self.extensions:
                extension.extra_compile_args.append(
                    "-Wno-maybe-uninitialized"
                )  # caused by variables that Cython adds for tracebacks
        if SANITIZE:
            for extension in self.extensions:
                extension.extra_compile_args.extend(SANITIZER_FLAGS)
                extension.extra_link_args.extend(SANITIZER_FLAGS)
        super().build_extensions()

    def copy_extensions_to_source(self) -> None:
        """Create the folders of the levels for builds in place: they are not packages, so setuptools does not."""
        for level in LEVELS:
            Path("gpt_core/kernels", level).mkdir(exist_ok=True)
        super().copy_extensions_to_source()

    def openmp_flag(self) -> str | None:
        """Return the compiler flag that enables OpenMP, or None if a test program does not compile with it."""
        flag = "/openmp" if MSVC else "-fopenmp"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("#include <omp.h>\nint probe(void) { return omp_get_max_threads(); }\n")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=[flag])
            except Exception:
                return None
        return flag


def extensions() -> list[Extension]:
    """Return the extensions: each plain module once, each kernel once per level."""
    utility = Extension(SHARED_UTILITY, [SHARED_UTILITY.replace(".", "/") + ".c"], extra_compile_args=[*PLAIN_FLAGS])
    plain = [Extension(path.removesuffix(".pyx").replace(os.sep, "."), [path], extra_compile_args=[*PLAIN_FLAGS])
             for path in PLAIN]  # fmt: skip
    kernels = [Extension(f"gpt_core.kernels.{name}", [f"gpt_core/kernels/{name}.pyx"]) for name in KERNELS]
    once = cythonize(
        [utility, *plain, *kernels],
        build_dir=str(GENERATED),
        shared_utility_qualified_name=SHARED_UTILITY,
        compiler_directives=DIRECTIVES,
        nthreads=0,
    )
    built = [extension for extension in once if ".kernels." not in extension.name]
    for kernel in (extension for extension in once if ".kernels." in extension.name):
        name = kernel.name.rpartition(".")[2]
        for level, flags in LEVELS.items():
            # one copy per level, because object files are named after their source
            source = GENERATED / level / f"{name}.c"
            source.parent.mkdir(parents=True, exist_ok=True)
            if not source.exists() or source.read_bytes() != Path(kernel.sources[0]).read_bytes():
                shutil.copyfile(kernel.sources[0], source)
            options = blas()
            options["extra_compile_args"] = [*options.get("extra_compile_args", []), *VECTORIZE, *flags]
            if name == "gemm" and not MSVC:  # a fixed order of summation, so that the bits do not depend on the tile
                options["extra_compile_args"].append("-fno-associative-math")
            options["include_dirs"] = [*options.get("include_dirs", []), "gpt_core/kernels"]
            built.append(Extension(f"gpt_core.kernels.{level}.{name}", [str(source)], depends=HEADERS, **options))
    return built


# the default corpus is installed as a package (`package-dir` in pyproject.toml)
PACKAGES = [*find_packages(include=["gpt_core*", "gpt_tui*"]), "gpt_core.data"]

setup(packages=PACKAGES, ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
