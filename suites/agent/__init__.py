# SPDX-License-Identifier: Apache-2.0
"""The agent ring: a guest agent that speaks the Kata agent API over ttRPC."""
