"""The promises of the simulated world, asked of the real thing: real files, real system calls, a real broker.

    syscalls      every system call of an update that touches storage fails, or is the last one
    amnesia       a file system that forgets what was not synced, and the power goes at random
    hostile link  a broker behind a relay that stalls, dribbles, cuts and lies
    corruption    every file of a gateway damaged in every way

What must hold afterwards is the same everywhere, and stands in `verdict`.
"""
