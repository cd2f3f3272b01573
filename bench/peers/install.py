"""`python -m bench.peers.install`: fetch the servers that no Python package holds, and start none.

Debian's packages are unpacked, not installed: no service starts, nothing outside `.venv-peers`
changes. Kafka's jars come from Maven Central. What cannot be fetched here is said and left out.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.peers.server import INSTALLED

_DEBIAN = (
    *("redis-server", "redis-tools", "libjemalloc2", "liblzf1", "rabbitmq-server"),
    *("erlang-base", "erlang-asn1", "erlang-crypto", "erlang-eldap", "erlang-ftp", "erlang-inets"),
    *("erlang-mnesia", "erlang-os-mon", "erlang-parsetools", "erlang-public-key"),
    *("erlang-runtime-tools", "erlang-snmp", "erlang-ssl", "erlang-syntax-tools", "erlang-tftp"),
    *("erlang-tools", "erlang-xmerl"),
)
_ERLANG = "/usr/lib/erlang"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>bench</groupId><artifactId>peers</artifactId><version>1</version>
<dependencies><dependency>
  <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.1.0</version>
</dependency></dependencies></project>
"""


def debian(target: Path) -> None:
    """Unpack Redis, RabbitMQ and Erlang below `target`."""
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        _run("apt-get", "download", "-qq", *_DEBIAN, directory=directory)
        for package in Path(directory).glob("*.deb"):
            _run("dpkg", "-x", str(package), str(target), directory=directory)
    # Erlang's start script knows its home by a constant.
    for script in (target / _ERLANG.lstrip("/")).glob("**/bin/erl"):
        text = script.read_text()
        script.write_text(text.replace(f"ROOTDIR={_ERLANG}", f"ROOTDIR={target}{_ERLANG}"))


def kafka(target: Path) -> None:
    """Fetch Kafka's jars."""
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        (Path(directory) / "pom.xml").write_text(_POM)
        goal = ("dependency:copy-dependencies", "-DincludeScope=runtime")
        output = f"-DoutputDirectory={target / 'kafka'}"
        _run("mvn", "--quiet", "--batch-mode", *goal, output, directory=directory)


def main() -> None:
    """Fetch what can be fetched here."""
    shutil.rmtree(INSTALLED, ignore_errors=True)
    INSTALLED.mkdir(parents=True)
    for fetch in (debian, kafka):
        try:
            fetch(INSTALLED)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"bench.peers.install: left out {fetch.__name__}: {error}", file=sys.stderr)


def _run(*command: str, directory: str) -> None:
    subprocess.run(command, cwd=directory, check=True)


if __name__ == "__main__":
    main()
