"""Peak against work: memsched's ladder beside every setting of stock that lowers a peak."""
