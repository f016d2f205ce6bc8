"""Builds the programs of `programs/`, each when it is first asked for, into the temporary folder."""

import os
import pathlib
import shutil

from . import processes

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
CLIENT = ROOT / "clients" / "c"
SOURCES = HERE / "programs"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]


def compiler(language):
    name = os.environ.get("CC", "cc") if language == "c" else os.environ.get("CXX", "c++")
    if shutil.which(name) is None:
        package = "gcc libc6-dev" if language == "c" else "g++"
        raise processes.Failure(f"no compiler `{name}`: apt install {package}")
    return name


def release():
    """dbufd as its users build it."""
    processes.run(["cargo", "build", "--release", "--locked", "--manifest-path", ROOT / "Cargo.toml"])
    return ROOT / "target" / "release" / "dbufd"


class Programs:
    def __init__(self, folder):
        self.folder, self.built = folder, {}

    def get(self, name):
        """The path of a program, or Failure with the compiler's words. A failure is remembered, too."""
        if name not in self.built:
            try:
                self.built[name] = self.build(name)
            except processes.Failure as failure:
                self.built[name] = failure
        if isinstance(self.built[name], processes.Failure):
            raise self.built[name]
        return self.built[name]

    def build(self, name):
        make = {
            "send_lttng": self.build_send_lttng,
            "send_spdlog": self.build_send_spdlog,
            "calls": self.build_calls,
            "slow_disk": self.build_library,
        }
        target = self.folder / name
        make.get(name, self.build_plain)(name, target)
        return target

    def compile(self, source, target, *flags):
        language = "c" if source.endswith(".c") else "c++"
        standard = "-std=c11" if language == "c" else "-std=c++17"
        command = [compiler(language), "-O2", standard, *WARNINGS, f"-I{CLIENT}", f"-I{SOURCES}", SOURCES / source]
        processes.run([*command, *flags, "-o", target])
        return target

    def build_plain(self, name, target):
        self.compile(name + ".c", target, "-ldl")

    def build_library(self, name, target):
        self.compile(name + ".c", target, "-shared", "-fPIC", "-ldl")

    def build_send_lttng(self, name, target):
        require_header("lttng/tracepoint.h", "liblttng-ust-dev", "c")
        event = self.compile("lttng_event.c", self.folder / "lttng_event.o", "-c")
        self.compile(name + ".c", target, event, "-llttng-ust", "-ldl")

    def build_send_spdlog(self, name, target):
        require_header("spdlog/spdlog.h", "libspdlog-dev", "c++")
        self.compile(name + ".cpp", target, *spdlog_flags("--cflags"), *spdlog_flags("--libs"), "-pthread")

    def build_calls(self, name, target):
        """With those kinds of call that can be built here."""
        objects, flags, libraries, linker = [], [], [], compiler("c")
        self.left_out = []
        try:
            require_header("lttng/tracepoint.h", "liblttng-ust-dev", "c")
            objects.append(self.compile("lttng_event.c", self.folder / "lttng_event.o", "-c"))
            objects.append(self.compile("calls_lttng.c", self.folder / "calls_lttng.o", "-c"))
            flags.append("-DWITH_LTTNG")
            libraries += ["-llttng-ust", "-ldl"]
        except processes.Failure as failure:
            self.left_out.append(("LTTng-UST", str(failure)))
        try:
            require_header("spdlog/spdlog.h", "libspdlog-dev", "c++")
            objects.append(
                self.compile("calls_spdlog.cpp", self.folder / "calls_spdlog.o", "-c", *spdlog_flags("--cflags"))
            )
            flags.append("-DWITH_SPDLOG")
            libraries += spdlog_flags("--libs")
            linker = compiler("c++")
        except processes.Failure as failure:
            self.left_out.append(("spdlog", str(failure)))
        calls = self.compile("calls.c", self.folder / "calls.o", "-c", *flags)
        processes.run([linker, calls, *objects, *libraries, "-pthread", "-o", target])


def require_header(header, package, language):
    command = [compiler(language), "-x", language, "-fsyntax-only", "-include", header, "/dev/null"]
    try:
        processes.run(command)
    except processes.Failure:
        raise processes.Failure(f"apt install {package}") from None


def spdlog_flags(which):
    """How the package wants to be used; without pkg-config, as it is in Debian."""
    try:
        return processes.run(["pkg-config", which, "spdlog"]).split()
    except processes.Failure:
        flags = "-DSPDLOG_SHARED_LIB -DSPDLOG_COMPILED_LIB -DSPDLOG_FMT_EXTERNAL"
        debian = {"--cflags": flags, "--libs": "-lspdlog -lfmt"}
        return debian[which].split()
