# SPDX-License-Identifier: Apache-2.0
"""Guest images: built from recipes, kept in a cache, verified on use."""

from kvtest.image.builder import Image, ImageCache

__all__ = ["Image", "ImageCache"]
