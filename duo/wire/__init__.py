"""The protocol between lead and backs, without a socket: bytes in, events and bytes out.

Theory of operation. A back opens one stream to the lead and keeps it open. Each end of a stream has one object:
`LeadSide` is a back as the lead sees it, `BackSide` is the lead as a back sees it. Both have two calls:

    receive(data, now)   takes one message; returns an event if the program must act on it, else None
    send(now)            yields the messages that the other side should get now

The gRPC shells around them are a reader and a writer each. The reader calls `receive`, and wakes the writer when there
may be something to send. Errors are exceptions: `ProtocolError` ends the stream, `RefusedError` says why.

    back                                lead
    Hello  (version, vocabulary, known) ->
                                        <- Compare, if the vocabularies are not the same
    Meanings ...                        ->
                                        <- Welcome, or Refusal and the end of the stream
                                        <- Begin, Commit ..., End      for each session
    Guesses, Status                     ->
    Ping / Pong                         <-> at any time after Welcome

What the lead says about sessions is state, not a queue of messages. All backs share one `Ledger` of the open sessions.
Each `LeadSide` knows how many tokens of each session its back has been sent, and sends the difference. So nothing piles
up for a slow back, and a late one gets what it lacks. A back that reconnects says what it holds and gets only the rest.

`messages` has the limits and the events. `codec` has their form in protocol buffers, which stays inside this folder.
"""
