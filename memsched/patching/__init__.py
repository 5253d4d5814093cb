"""The patches for PyTorch itself: what they touch, how they are put into an environment, how they are tried without.

`patches/` in the repository holds `git format-patch` files.  Three things are done with them here:

    series        read them: number, subject, the files of torch that they change
    overlay       patched copies of those files, imported instead of the installed ones by this process alone
    environment   the installed torch itself: apply, revert, status; only ever on the user's own command

Nothing here imports torch: an overlay must be in place before that, and `environment` only moves files.
"""
