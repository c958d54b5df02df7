"""The bridge's decisions: which device is assigned what, when, and what its reports mean for the campaign.

Everything here is a total function of state, event and time. It opens no file, store or socket, reads no
clock and draws no random numbers: the shells feed events in and carry the returned actions out, in order. So
a campaign of weeks over ten thousand devices runs in a test in seconds, and the same events always lead to
the same assignments.
"""
