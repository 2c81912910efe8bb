"""README, man pages, help texts and completion scripts say what the program does: every command they show is parsed,
every file they show is read, every option and key has its place in a man page."""

from __future__ import annotations

import argparse
import importlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support import ROOT
from via6 import config, errors
from via6.cli import main, route
from via6.cli.explain import parse_question
from via6.cli.words import OPS, Devices, parse_route
from via6.config_text import HopTable, RouteTable
from via6.lab import labfile
from via6.lab.topology import SOFTWARE
from via6.model import Link
from via6.observe.explain import _SENTENCES
from via6.observe.names import Names
from via6.render import ALIASES, SYSTEMS

README = (ROOT / "README.md").read_text()
PROSE = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.name: path for path in sorted((ROOT / "docs/man").glob("man*/*"))}
WRITTEN = {name: path for name, path in PAGES.items() if not path.read_text().startswith(".so ")}

PAGE_OF = {verb: f"via6-{verb}.1" for verb in main.VERBS} | {
    "plan": "via6-apply.1", "confirm": "via6-apply.1", "undo": "via6-apply.1", "completion": "via6.1",
}  # fmt: skip

COMPLETIONS = {"bash": "via6.bash", "zsh": "_via6", "fish": "via6.fish"}
MADE_BY = "3.7.2"
"""The argcomplete that made the files in packaging/completions; after a new one make them again."""


# --- what stands in a text -----------------------------------------------------------------------------------------


def unroffed(text: str) -> str:
    """A piece of roff as it is read: escapes resolved, font changes gone."""
    text = re.sub(r"\\f(?:\[\w*\]|\w)", "", text)
    for escape, plain in (("\\-", "-"), ("\\(dq", '"'), ("\\(aq", "'"), ("\\&", ""), ("\\ ", " "), ("\\e", "\\")):
        text = text.replace(escape, plain)
    return text


def blocks(path: Path) -> list[str]:
    """The displayed blocks of a man page (.EX) or of Markdown (```)."""
    text = path.read_text()
    if path.suffix == ".md":
        return re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [unroffed(block) for block in re.findall(r"^\.EX\n(.*?)^\.EE", text, re.DOTALL | re.MULTILINE)]


def commands_in(block: str) -> Iterator[str]:
    """Its lines that call via6, without what a shell has before and behind."""
    for line in block.splitlines():
        found = re.match(r"(?:[\w-]*[#$] *)?(via6 .*)", line.strip())
        if found:
            yield re.split(r" {2,}|\s[|>&<]|\s#", found[1])[0].strip()


def shown() -> Iterator[tuple[str, str]]:
    """(where, command) of every command in a block of README, docs and man pages, and in the examples of -h."""
    for path in (*PROSE, *WRITTEN.values()):
        for block in blocks(path):
            yield from ((path.name, command) for command in commands_in(block))
    yield from (("via6 -h", command) for command in commands_in(main.EPILOG))
    for verb, (module, _) in main.VERBS.items():
        text = importlib.import_module(module).__doc__ or ""
        yield from ((f"via6 {verb} -h", command) for command in commands_in(text.partition("examples:")[2]))


def said() -> Iterator[tuple[str, str]]:
    """(where, command) in running text: `via6 …` in Markdown and docstrings, bold in man pages."""
    for path in PROSE:
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        yield from ((path.name, command) for command in re.findall(r"`(via6 [^`]*)`", text))
    for name, path in WRITTEN.items():
        body = re.sub(r"^\.SH SYNOPSIS.*?^\.SH", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
        for line in body.splitlines():
            if line.startswith((".B via6 ", '.BR "via6 ', '.RB ( "via6 ')):
                words = shlex.split(unroffed(line), posix=True)
                pieces = [" ".join(words[1:])] if words[0] == ".B" else words[1:]
                yield from ((name, piece) for piece in pieces if piece.startswith("via6 "))
    for verb, (module, _) in main.VERBS.items():
        text = importlib.import_module(module).__doc__ or ""
        yield from ((f"via6 {verb} -h", command) for command in re.findall(r"`(via6 [^`]*)`", text))


# --- the program's own parsers -------------------------------------------------------------------------------------


class _AnyDevice(dict[str, Link]):
    def get(self, name: str, default: Any = None) -> Link:
        return Link(sum(name.encode()), name)


ANY = Devices(_AnyDevice())


class Wrong(Exception):  # noqa: N818
    pass


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for verb, (name, _) in main.VERBS.items():
        yield verb, main.leaf_parser(verb, importlib.import_module(name))


def parse(command: str) -> tuple[str, argparse.Namespace]:
    """(verb, arguments) as `main.dispatch` has them; Wrong with argparse's words."""
    argv = main._with_colour(shlex.split(command)[1:])
    at = main._split(argv)
    options = main._parser().parse_args(argv[:at])
    if at == len(argv):
        return "", options
    verb = argv[at]
    if verb not in main.VERBS:
        raise Wrong(f"no verb {verb}")
    leaf = main.leaf_parser(verb, importlib.import_module(main.VERBS[verb][0]))
    return verb, leaf.parse_intermixed_args(argv[at + 1 :], argparse.Namespace(**vars(options)))


@pytest.fixture(autouse=True)
def _parsers_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    def error(_self: argparse.ArgumentParser, message: str) -> None:
        raise Wrong(message)

    monkeypatch.setattr(argparse.ArgumentParser, "error", error)


def understand(verb: str, args: argparse.Namespace) -> None:
    """The words that are not argparse's: those of `via6 route` and `via6 explain`. Raises Refusal."""
    if verb == "explain":
        parse_question(args.words, ANY)
    if verb != "route" or args.batch is not None:
        return
    op = route._verb(args.words)
    if op in OPS.values():
        parse_route(op, args.words[1:], Names(), ANY, route._family(args))
    else:
        route.parse_filter(args.words[1:] if op else args.words, Names(), ANY, 0)


# --- commands ------------------------------------------------------------------------------------------------------


def trouble(command: str) -> str:
    """What the program would say against a command line; empty if it understands it."""
    try:
        with redirect_stdout(io.StringIO()):
            understand(*parse(command))
    except SystemExit as stop:  # -h and -V
        return f"exit {stop.code}" if stop.code else ""
    except (Wrong, errors.Refusal) as wrong:
        return str(wrong)
    return ""


def test_commands_in_blocks_are_understood() -> None:
    found = list(shown())
    assert len(found) > 80
    assert [(where, command, told) for where, command in found if (told := trouble(command))] == []


SAMPLES = {
    "ADDRESS": "10.0.0.1",
    "PREFIX": "10.0.0.0/8",
    "DEV": "eth1",
    "SYSTEM": "bird",
    "SECONDS": "60",
    "VERB": "run",
}
UNFINISHED = re.compile(r"the following arguments are required|expected one argument|explain what|no destination")


def test_commands_in_running_text_are_understood_as_far_as_they_go() -> None:
    """`via6 apply` names a verb and needs no FILE; an option or word that is not there is wrong here as well."""
    found = list(said())
    assert len(found) > 50
    for where, command in found:
        line = re.sub(r"\\?\|.*|…|\.\.\.", "", command)
        line = re.sub(r"\b[A-Z]{3,}\b", lambda word: SAMPLES.get(word[0], word[0]), line)
        told = trouble(line)
        assert not told or UNFINISHED.search(told), f"{where}: {command}: {told}"


def test_what_is_wrong_is_found() -> None:
    for command in (
        "via6 rout", "via6 -x route", "via6 check --all FILE", "via6 lab start FILE", "via6 render plan9 FILE",
        "via6 route add 10.0.0.1/8 via fe80::1 dev eth1", "via6 route show rot 10/8", "via6 explain 10.0.0.1 to",
    ):  # fmt: skip
        assert trouble(command), command


def test_every_verb_is_shown_in_readme_and_in_its_man_page() -> None:
    for verb in main.VERBS:
        assert re.search(rf"\b{verb}\b", README), verb
        displays = " ".join(blocks(WRITTEN[PAGE_OF[verb]]))
        assert f"via6 {verb}" in displays, verb


# --- files that are shown ------------------------------------------------------------------------------------------


def test_toml_blocks_are_read() -> None:
    routes = labs = 0
    for path in (*PROSE, *WRITTEN.values()):
        for block in blocks(path):
            if "[[route]]" in block:
                read, problems = config.parse(block.encode(), path.name)
                assert read is not None, problems
                assert not problems, problems
                routes += 1
            elif "[router." in block:
                assert labfile.parse(block.encode(), path.name, "lab").routers
                labs += 1
    assert routes >= 6
    assert labs >= 1


def test_the_lab_of_the_help_text_is_read() -> None:
    text = importlib.import_module("via6.cli.lab").__doc__ or ""
    shown = text.partition("A lab in TOML:\n")[2].partition("\n\n")[0]
    topology = labfile.parse(shown.encode(), "-h", "lab")
    assert [router.name for router in topology.routers] == ["r1", "r2"]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_files_of_the_tree_that_are_named_exist() -> None:
    folders = "docs|examples|packaging|scripts|src|tests|bench"
    for path in (*PROSE, *WRITTEN.values()):
        text = unroffed(path.read_text())
        for name in re.findall(rf"(?<![\w/.])((?:{folders})/[\w./@-]*\w)", text):
            assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_readme_begins_with_two_commands() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in ("demo", "test"):
        assert re.search(rf"^make {target}\b", README, re.MULTILINE)
        assert target in targets


def test_exit_codes_are_those_of_the_program() -> None:
    codes = {errors.OK: "good", errors.FAILED: "failed", errors.USAGE: "usage", errors.TROUBLE: "a test found trouble"}
    codes[errors.NO_DAEMON] = "daemon not reached"
    defined = {value for value in vars(errors).values() if isinstance(value, int)}
    assert defined == codes.keys()
    line = ", ".join(f"{code} {text}" for code, text in sorted(codes.items()))
    assert f"exit codes: {line}\n" in main.EPILOG
    assert f"Exit codes: {line}." in " ".join(README.split())
    section = sections(WRITTEN["via6.1"])["EXIT STATUS"]
    assert {int(code) for code in re.findall(r"^\.TP\n\.B (\d+)$", section, re.MULTILINE)} == defined


# --- man pages -----------------------------------------------------------------------------------------------------

MACROS = {
    ".B", ".BI", ".BR", ".EE", ".EX", ".I", ".IP", ".IR", ".PP", ".RB", ".RI", ".SH", ".SS", ".TH", ".TP", ".TQ", ".br",
}  # fmt: skip


def sections(path: Path) -> dict[str, str]:
    """The text of a man page by heading."""
    parts = re.split(r"^\.SH (.*)\n", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_verb_has_a_man_page_and_every_man_page_a_verb() -> None:
    wanted = {f"via6-{verb}.1" for verb in main.VERBS} - {"via6-completion.1"} | {"via6.1", "via6.toml.5"}
    assert PAGES.keys() == wanted
    assert set(PAGE_OF.values()) | {"via6.toml.5"} == WRITTEN.keys()
    for name, path in PAGES.items():
        assert path.parent.name == f"man{name[-1]}"
        if name not in WRITTEN:
            assert path.read_text() == f".so man1/{PAGE_OF[name[5:-2]]}\n"
            assert name[:-2] in sections(WRITTEN[PAGE_OF[name[5:-2]]])["NAME"]


@pytest.mark.parametrize("name", WRITTEN)
def test_shape_of_man_page(name: str) -> None:
    path = WRITTEN[name]
    text = path.read_text()
    title, number = name.rsplit(".", 1)
    assert text.startswith(f".TH {title.upper()} {number} ")
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 120
    assert not re.search(r"[ \t]$", text, re.MULTILINE)
    found = list(sections(path))
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]
    if number == "5":
        wanted = ["NAME", "DESCRIPTION", "EXAMPLES", "FILES", "SEE ALSO"]
    assert [heading for heading in found if heading in wanted] == wanted
    assert title in unroffed(sections(path)["NAME"]).partition(" - ")[0]
    for line in text.splitlines():
        assert not line.startswith("'"), line
        if line.startswith("."):
            assert line.split()[0] in MACROS, line
    assert text.count("\n.EX\n") == text.count("\n.EE\n")
    # A hyphen that is typed is a minus sign in roff; only in displays it may stand bare, where nothing is broken.
    outside = re.sub(r"^\.EX.*?^\.EE", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"(?<![\w\\(/])--?[a-z]", outside), re.search(r"(?<![\w\\(/])--?[a-z].*", outside)


def test_see_also_names_pages_that_exist() -> None:
    for name, path in WRITTEN.items():
        for other, number in re.findall(r"^\.BR (via6\S*) \((\d)\)", path.read_text(), re.MULTILINE):
            assert f"{other}.{number}" in PAGES, f"{name}: {other}({number})"


def _names_of(action: argparse.Action) -> list[str]:
    return [name for name in action.option_strings if name not in ("-h", "--help")]


def test_every_option_is_in_the_man_page_and_no_other() -> None:
    known: dict[str, set[str]] = {page: set() for page in WRITTEN}
    for verb, parser in (("", main._parser()), *parsers()):
        page = PAGE_OF[verb] if verb else "via6.1"
        known[page] |= {name for action in parser._actions for name in _names_of(action)}
    known["via6.1"] |= {"-h", "--help"}
    for page, options in known.items():
        if page == "via6.toml.5":
            continue
        tags = re.findall(r"^\.T[PQ]\n(\.\w+ .*)", sections(WRITTEN[page])["OPTIONS"], re.MULTILINE)
        words = {word for tag in tags for word in re.split(r'[\s",=\[\]]+', unroffed(tag)) if word.startswith("-")}
        assert words == options, page


def test_choices_of_options_are_in_the_man_page() -> None:
    for verb, parser in parsers():
        text = unroffed(WRITTEN[PAGE_OF[verb]].read_text())
        for action in parser._actions:
            for choice in action.choices or ():
                page = text if action.dest != "color" else unroffed(WRITTEN["via6.1"].read_text())
                assert re.search(rf"(?<![\w-]){re.escape(str(choice))}(?![\w-])", page), (verb, choice)


def tags_of(text: str) -> dict[str, str]:
    """What hangs on each tag of a list: first word -> rest of the tag."""
    found = re.findall(r'^\.TP\n\.B[RI]? "?(\w+)(.*)$', text, re.MULTILINE)
    return {word: unroffed(rest) for word, rest in found}


def test_every_key_of_the_configuration_is_in_the_man_page() -> None:
    parts = sections(WRITTEN["via6.toml.5"])
    for heading, table in (("KEYS OF [[route]]", RouteTable), ("KEYS OF A NEXT HOP", HopTable)):
        fields = {field.name: field for field in msgspec.structs.fields(table)}
        assert tags_of(parts[heading]).keys() == fields.keys()
        for name, rest in tags_of(parts[heading]).items():
            assert ("required" in rest) == fields[name].required, name
            if fields[name].default not in (None, msgspec.NODEFAULT):
                assert f"default {fields[name].default}" in rest.replace('"', ""), name
            assert ("number" in rest) == ("int" in str(fields[name].type)), name
    for word in config.TYPES:
        assert f".B {word}" in parts["KEYS OF [[route]]"] or f".BR {word}" in parts["KEYS OF [[route]]"]


def _lab_tables() -> Mapping[str, type[msgspec.Struct]]:
    return {
        "[lab]": labfile._LabTable, "[router.NAME]": labfile._RouterTable, "[host.NAME]": labfile._HostTable,
        "[[link]]": labfile._LinkTable,
    }  # fmt: skip


@pytest.mark.parametrize("heading", _lab_tables())
def test_every_key_of_a_lab_is_in_the_man_page(heading: str) -> None:
    text = sections(WRITTEN["via6-lab.1"])["FILE FORMAT"].partition(f".SS {heading}\n")[2].partition(".SS ")[0]
    fields = {field.name: field for field in msgspec.structs.fields(_lab_tables()[heading])}
    tags = tags_of(text)
    assert tags.keys() == fields.keys()
    for name, rest in tags.items():
        assert ("required" in rest) == fields[name].required, name
        if fields[name].default not in ("", msgspec.NODEFAULT):
            assert f"default {fields[name].default}" in rest.replace('"', ""), name


def test_words_that_the_program_prints_or_takes_are_in_the_man_pages() -> None:
    disposition = sections(WRITTEN["via6-explain.1"])["DISPOSITION"]
    assert set(re.findall(r"^\.TP\n\.B (\w+)$", disposition, re.MULTILINE)) == set(_SENTENCES)
    systems = re.findall(r"^\.TP\n\.BR? (.*)$", sections(WRITTEN["via6-render.1"])["SYSTEMS"], re.MULTILINE)
    named = {word for line in systems for word in re.split(r'[\s",]+', unroffed(line)) if word}
    assert named == {*SYSTEMS, *ALIASES}
    software = sections(WRITTEN["via6-lab.1"])["FILE FORMAT"]
    assert all(f"\n.B {word}\n" in software for word in SOFTWARE)


def test_every_variable_of_the_environment_is_in_the_man_page() -> None:
    found = set()
    for path in (ROOT / "src/via6").rglob("*.py"):
        found |= set(re.findall(r"environ(?:\.get\(|\[)[\"'](\w+)[\"']", path.read_text()))
    found -= {"PATH", "COLUMNS", "LINES", "COMP_LINE"}  # what they mean everywhere
    named = re.findall(r"^\.TP\n\.B (\w+)$", sections(WRITTEN["via6.1"])["ENVIRONMENT"], re.MULTILINE)
    assert set(named) == found


# --- the wheel -----------------------------------------------------------------------------------------------------


def test_the_wheel_carries_man_pages_and_completions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert all((ROOT / source).exists() for source in shared)
    folders = {path.parent.relative_to(ROOT).as_posix() for path in PAGES.values()}
    assert {source for source, target in shared.items() if target.startswith("share/man/")} == folders
    scripts = {f"packaging/completions/{name}" for name in COMPLETIONS.values()}
    assert {source for source in shared if source.startswith("packaging/completions/")} == scripts


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_completion_scripts_are_what_the_program_prints(shell: str) -> None:
    file = ROOT / "packaging/completions" / COMPLETIONS[shell]
    made = io.StringIO()
    with redirect_stdout(made):
        assert main.dispatch(["completion", shell]) == 0
    if version("argcomplete") == MADE_BY:
        assert file.read_text() == made.getvalue(), f"via6 completion {shell} > {file.relative_to(ROOT)}"
    else:  # Another argcomplete may word its script differently; what script and program say to each other is the same.
        words = re.compile(r"\b(?:_ARGCOMPLETE\w*|COMP_\w+)\b")
        assert set(words.findall(file.read_text())) <= set(words.findall(made.getvalue()))
