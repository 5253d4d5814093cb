"""Set-ups in which people compile: does memsched run there, is its plan what is measured, is it below stock?"""
