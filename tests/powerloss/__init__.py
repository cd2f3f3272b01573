"""What a power cut may leave on the disks, and whether anything acknowledged is missing then."""
