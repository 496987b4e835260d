# SPDX-License-Identifier: Apache-2.0
"""``kvtest image``: build, list, show and prune guest images."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from kvtest.cli.console import output, progress
from kvtest.cli.options import Given, settings_of, with_settings
from kvtest.host import bundle, lab_guests
from kvtest.image import Image, ImageCache
from kvtest.image.recipe import load_kernels
from kvtest.vm.template_cache import template_caches

app = typer.Typer(help="Build, list, show and prune guest images.", no_args_is_help=True)


@app.command("build")
@with_settings("guest_kernel", "guest_image", "cache", "mirror")
def build(
    given: Given,
    every: Annotated[bool, typer.Option("--all", help="One image for each named kernel")] = False,
) -> None:
    """Build the image of the settings, one for each guest kernel, if it is not in the cache."""
    settings = settings_of(given)
    cache = ImageCache(settings.cache, settings.mirror)
    for kernel in load_kernels() if every else settings.guest_kernel:
        output.print(cache.ensure(kernel, settings.guest_image, progress).name, highlight=False)


@app.command("list")
@with_settings("cache")
def show_all(given: Given) -> None:
    """List the images in the cache."""
    table = Table("image", "kernel", "packages", "size")
    for image in ImageCache(settings_of(given).cache).images():
        if isinstance(image, Image):
            megabytes = f"{image.size / 1e6:.1f} MB"
            table.add_row(image.name, image.release, str(len(image.manifest["packages"])), megabytes)
        else:
            table.add_row(image, "corrupt: it is built again when it is needed", "", "")
    output.print(table)


@app.command("show")
@with_settings("guest_kernel", "guest_image", "cache", "mirror")
def show(given: Given) -> None:
    """Print where the image of the settings is, and its manifest with exact package versions; built if need be."""
    settings = settings_of(given)
    image = ImageCache(settings.cache, settings.mirror).ensure(settings.kernel, settings.guest_image, progress)
    document = {"kernel": str(image.kernel), "initramfs": str(image.initramfs), "manifest": image.manifest}
    output.print_json(json.dumps(document))


@app.command("prune")
@with_settings("guest_kernel", "guest_image", "cache")
def prune(
    given: Given,
    every: Annotated[bool, typer.Option("--all", help="Also the image of the settings")] = False,
) -> None:
    """Remove images other than that of the settings, layers, templates, and what killed builds left.

    What a run uses at this moment stays.
    """
    settings = settings_of(given)
    cache = ImageCache(settings.cache)
    wanted = [] if every else [cache.find(kernel, settings.guest_image) for kernel in settings.guest_kernel]
    removed = cache.prune({image.name for image in wanted if image is not None})
    # What a template belongs to is only known by making its name again, and making it again takes seconds.
    used = []
    for templates in template_caches(settings.cache):
        removed += templates.prune(lambda _name: False)
        used += templates.names()
    for disks in (bundle.store(settings.cache), lab_guests.store(settings.cache)):
        removed += disks.prune(lambda _name: False)
    for name in removed:
        output.print(f"removed {name}", highlight=False)
    for name in used:
        output.print(f"kept {name}: it is in use", highlight=False)
    if not removed and not used:
        output.print("nothing to remove")
