"""What a device's own tools say of it, one file a tool, for what /proc and /sys leave out.

A reader's module keeps two things apart, because the host reads `adb shell dumpsys` with the same parsers:

- `parse_*(text)` are pure. They want the text as the tool printed it, line ends and all: half of 0x50005 is a number
  too, so what has no end is not taken. What they do not understand is None or absent, and nothing makes them raise.
- `read*(tool)` runs the tool and gives None where it is absent, too slow or unwilling.

None of them is cheap (5 to 300 ms), so they belong before and after a round, never between two measurements.
"""
