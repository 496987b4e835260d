# SPDX-License-Identifier: Apache-2.0
"""What ``ci/bench`` measures: a module for each group of figures."""
