"""The image of a measured micro-VM: a kernel, and an initramfs that holds Python, wasmtime and the Keep's agent.

lock       which packages are in it: names, versions and SHA-256, resolved once and written down
tree       packages, wheels and our own modules, unpacked and compiled
build      packages to kernel and initramfs, the same bytes every time, without root
cpio       the archive format of an initramfs
container  the three programs as an OCI image
init       what runs first inside, and becomes the Keep
firmware   what a firmware image measures and whether it checks what it is told
measure    the digests that a policy has to list

Building needs Debian's packages and Python's registry through their ordinary clients; nothing else is fetched.
"""
