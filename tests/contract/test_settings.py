import tomllib
from pathlib import Path
from typing import Self

import pytest
from pydantic import Field, field_validator, model_validator

from contract.settings import Section, SettingsError, load_settings, print_default_config, settings_table


class Listener(Section):
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=11112, gt=0, lt=65536, description="TCP port")


class Door(Section):
    is_open: bool = Field(default=False, description="whether it stands open")

    @field_validator("is_open")
    @classmethod
    def _closed(cls, value: bool) -> bool:
        if value:
            raise ValueError("Doors stay closed")
        return value


class Peer(Section):
    ae_title: str = Field(description="its AE title")
    port: int = Field(default=104, description="TCP port")


class Lock(Section):
    code: str = Field(description="what opens it")
    tries: int = Field(default=3, description="wrong ones taken")


class Cellar(Section):
    is_dry: bool = Field(default=True, description="whether it is")
    shelf: Listener = Field(default_factory=Listener, description="one table in another")
    locks: list[Lock] = Field(default=[], description="a list of tables in a table")


class Program(Section):
    name: str | None = Field(default=None, description="what people call it")
    listener: Listener = Field(default_factory=Listener, description="where it listens")
    door: Door = Field(default_factory=Door, description="the way in")
    peers: list[Peer] = Field(default_factory=list, description="whom it knows")
    cellar: Cellar = Field(default_factory=Cellar, description="what is below")
    profiles: dict[str, Peer] = Field(default={}, description="tables under names of one's own")
    spare: Listener | None = Field(default=None, description="a table that need not be there")

    @model_validator(mode="after")
    def _two_names(self) -> Self:
        if self.name == self.listener.host:
            raise ValueError("name and listener.host are the same")
        return self


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.toml"
    path.write_text(text)
    return path


def test_values_come_from_the_file_and_the_rest_from_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, '[listener]\nport = 2000\n[[peers]]\nae_title = "A"\n')
    settings = load_settings(Program, path, {})
    assert (settings.listener.host, settings.listener.port) == ("127.0.0.1", 2000)
    assert settings.peers == [Peer(ae_title="A", port=104)]


def test_the_environment_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[listener]\nport = 2000\n")
    assert load_settings(Program, path, {"DICOMNET_LISTENER_PORT": "3000"}).listener.port == 3000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[listener]\nhost = 'h'\nprot = 1\n", ["line 3", "listener.prot", "did you mean listener.port?"]),
        ("[listner]\nport = 1\n", ["line 1", "listner", "did you mean listener?"]),
        ("# first\n[listener]\nport = 0\n", ["line 3", "listener.port", "greater than 0"]),
        ("[listener]\nport = 'x'\n", ["line 2", "listener.port", "valid integer"]),
        (
            "[[peers]]\nae_title='A'\n[[peers]]\nae_title='B'\nprt=3\n",
            ["line 5", "peers.1.prt", "peers.port"],
        ),
        ("[door]\nis_open = true\n", ["line 2: door.is_open: doors stay closed"]),
        ("[[peers]]\nport = 1\n", ["peers.0.ae_title is missing"]),
        ("[listener\n", ["program.toml", "line 1"]),
        ("[cellar.shelf]\nport = 0\n", ["line 2: cellar.shelf.port: "]),
        (
            "[[cellar.locks]]\ncode='a'\n[[cellar.locks]]\ncode='b'\ntrys=3\n",
            ["line 5", "cellar.locks.1.trys", "did you mean cellar.locks.tries?"],
        ),
        ("[profiles.mine]\nae_title='A'\nprt=3\n", ["line 3", "unknown key profiles.mine.prt"]),
        ("name = '127.0.0.1'\n", ["program.toml: name and listener.host are the same"]),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path: Path, text: str, says: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Program, write(tmp_path, text), {})
    for part in says:
        assert part in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load_settings(Program, tmp_path / "absent.toml", {})


def test_the_printed_default_is_a_valid_file_of_the_defaults(tmp_path: Path) -> None:
    text = print_default_config(Program)
    tomllib.loads(text)
    assert load_settings(Program, write(tmp_path, text), {}) == Program()
    assert "# TCP port\nport = 11112" in text
    assert "# [[peers]]" in text
    assert "[cellar]\n# whether it is\nis_dry = true\n\n# one table in another\n[cellar.shelf]\n" in text
    for example in ("# [[cellar.locks]]", "# [profiles.name]", "# [spare]", "# tries = 3"):
        assert f"\n{example}\n" in text


def test_the_printed_examples_are_good_once_they_are_uncommented(tmp_path: Path) -> None:
    text = print_default_config(Program)
    for commented in (
        "[[peers]]",
        "port = 104",
        "[[cellar.locks]]",
        "tries = 3",
        "[profiles.name]",
        "[spare]",
    ):
        assert f"# {commented}\n" in text
        text = text.replace(f"# {commented}\n", f"{commented}\n")
    text = text.replace("# ae_title =\n", 'ae_title = "CT1"\n').replace("# code =\n", 'code = "1"\n')
    settings = load_settings(Program, write(tmp_path, text), {})
    assert settings.peers == [Peer(ae_title="CT1", port=104)]
    assert settings.cellar.locks == [Lock(code="1", tries=3)]
    assert settings.profiles == {"name": Peer(ae_title="CT1", port=104)}
    assert settings.spare == Listener()


def test_the_table_has_every_key() -> None:
    table = settings_table(Program)
    for key in (
        "name",
        "listener.host",
        "listener.port",
        "peers.ae_title",
        "peers.port",
        "cellar.is_dry",
        "cellar.shelf.port",
        "cellar.locks.code",
        "profiles.<name>.port",
    ):
        assert f"| `{key}` |" in table
