#!/usr/bin/env bash
# Puts the Autobahn WebSocket test suite 25.10.1 into the folder $1 and installs nothing system-wide.
#
# The suite runs on Python 2 only, which current Debian no longer has. So this fetches PyPy 2.7 and the libraries it
# links from Debian's bullseye suite, through the mirror that this machine already uses, unpacks them into the folder,
# and adds the suite with the last versions of its dependencies that support Python 2. About a minute, 200 MB.
# Afterwards `$1/wstest ARGUMENTS` runs it. A stamp in the folder makes a second run return at once.
set -euo pipefail

dir=${1:?usage: autobahn_setup.sh FOLDER}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
stamp=$dir/.ready-25.10.1-1
if [ -e "$stamp" ]; then exit 0; fi

# What a cut-off run left behind is not trusted.
rm -rf "$dir"/{root,debs,lists,cache,site,dl,old.list,py27,wstest,wstest.py}
mkdir -p "$dir"/{root,debs,lists/partial,cache/archives/partial,site,dl}
cd "$dir"

retry() {
    local try
    for try in 1 2 3; do
        if "$@"; then return 0; fi
        echo "autobahn: attempt $try failed: $1 $2" >&2
    done
    return 1
}

# The machine's own Debian mirror: deb822 file first, one-line file second.
mirror=$(cat /etc/apt/sources.list.d/debian.sources 2>/dev/null | awk '/^URIs:/ {print $2; exit}')
if [ -z "$mirror" ]; then
    mirror=$(awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /debian\/?$/) {print $i; exit}}' /etc/apt/sources.list)
fi
[ -n "$mirror" ] || { echo "autobahn: no Debian mirror is configured in /etc/apt" >&2; exit 1; }

# A private apt state with bullseye as its only source.
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bullseye main" > old.list
apt=(apt-get -qq
    -o "Dir::Etc::SourceList=$dir/old.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o APT::Sandbox::User=root)
retry "${apt[@]}" update
# Named with their suite where the machine has a newer one installed: apt would take that as the candidate.
packages=(pypy pypy-lib libffi7 libssl1.1 libtinfo6/bullseye libncursesw6/bullseye libexpat1/bullseye
    libsqlite3-0/bullseye libgdbm6/bullseye)
cd debs
retry "${apt[@]}" download "${packages[@]}"
cd ..
for deb in debs/*.deb; do dpkg -x "$deb" root; done

cat > py27 <<SH
#!/bin/sh
export LD_LIBRARY_PATH='$dir/root/usr/lib/x86_64-linux-gnu:$dir/root/lib/x86_64-linux-gnu'
export PYTHONPATH='$dir/site'
exec '$dir/root/usr/bin/pypy' "\$@"
SH
chmod +x py27

# pip 20.3.4 was the last for Python 2; today's pip fetches it, then it installs the rest.
retry python3 -m pip -q --disable-pip-version-check download --no-deps -d dl --python-version 27 --only-binary=:all: \
    pip==20.3.4 setuptools==44.1.1 wheel==0.37.1
old_pip=(./py27 dl/pip-20.3.4-py2.py3-none-any.whl/pip --disable-pip-version-check --no-python-version-warning)
install=("${old_pip[@]}" install -q --no-cache-dir --no-compile --no-deps --target site)
retry "${install[@]}" setuptools==44.1.1 wheel==0.37.1
retry "${install[@]}" --no-build-isolation \
    incremental==17.5.0 constantly==15.1.0 zope.interface==4.7.2 attrs==19.3.0 idna==2.10 hyperlink==19.0.0 \
    Automat==0.8.0 PyHamcrest==1.9.0 six==1.16.0 typing==3.10.0.0 txaio==2.1.0 markupsafe==1.1.1 jinja2==2.11.3 \
    werkzeug==0.16.1 klein==17.10.0 argparse==1.4.0 linecache2==1.0.0 traceback2==1.4.0 unittest2==1.1.0 autobahn==0.10.9
touch site/zope/__init__.py

# These two do not build in place; their packages are plain Python and are copied.
retry "${old_pip[@]}" download -q --no-deps --no-build-isolation -d dl twisted==19.10.0
tar xjf dl/Twisted-19.10.0.tar.bz2 -C dl
cp -r dl/Twisted-19.10.0/src/twisted site/
retry python3 -m pip -q --disable-pip-version-check download --no-deps --no-binary :all: -d dl autobahntestsuite==25.10.1
tar xzf dl/autobahntestsuite-25.10.1.tar.gz -C dl
cp -r dl/autobahntestsuite-25.10.1/autobahntestsuite site/

# The suite imports Twisted's TLS module even for ws:// alone; an empty one stands in for it.
cat > wstest.py <<'PY'
import sys
import types

tls = types.ModuleType("twisted.internet.ssl")
tls.ClientContextFactory = tls.DefaultOpenSSLContextFactory = object
sys.modules["twisted.internet.ssl"] = tls
import twisted.internet

twisted.internet.ssl = tls
from autobahntestsuite import wstest

wstest.run()
PY
cat > wstest <<SH
#!/bin/sh
exec '$dir/py27' '$dir/wstest.py' "\$@"
SH
chmod +x wstest
rm -rf debs lists cache dl
touch "$stamp"
