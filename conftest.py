# SPDX-License-Identifier: Apache-2.0
"""What tests of kvtest itself share."""

pytest_plugins = ["pytester"]
