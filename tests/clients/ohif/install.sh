#!/bin/sh
# OHIF as its makers publish it, into dist/ beside this file: install.sh <npm, with what stands before it>.
# Its package names what it was built from as dependencies, which are in the bundle already: so it is unpacked, and npm is
# not asked to install it. Left out: models for segmentation by machine (136 MB), and the viewer of slides.
set -eu
here=$(dirname "$0")
version=3.13.2
sha512=5997719a9986eeba85816f5924b71b82bdd70ad2e2d4a0cd3e831a798e4f3deea3e06e1f8c48e393271933a0ba664d85f3b04ac457e9abe8dde715d907d13c10
rm -rf "$here/dist" "$here/part"
mkdir "$here/part"
"$@" pack --silent --pack-destination "$here/part" "@ohif/app@$version"
echo "$sha512  $here/part/ohif-app-$version.tgz" | sha512sum --check --quiet
tar -xzf "$here/part/ohif-app-$version.tgz" -C "$here/part" \
    --exclude='package/dist/ort' --exclude='package/dist/dicom-microscopy-viewer'
mv "$here/part/package/dist" "$here/dist"
rm -rf "$here/part"
