"""client: executes typed calls against our own API, over the standard library alone. A slice declares its calls in
`wire.py` as `Call`s (`call.py`); `Client` (`client.py`) sends them, decodes the answers, and turns every failure into a
`TokenworksError` with one plain sentence. `stream.py` reads server-sent events, for chat.
"""
