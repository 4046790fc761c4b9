"""What the proxy shows of itself: the index, an agent's page, logs, errors. Pure functions that return an `Answer`.

On the hosts ``localhost`` and ``moat.localhost``, GET and HEAD; anything else is ``errors.bad_request(405, …)``:

============================  =======================  ==============================================================
path                          Accept                   answered by
============================  =======================  ==============================================================
any                           any                      `errors.foreign`, if `accept.is_foreign`
``/``                         HTML, else JSON          `index.index_page`
``/events``                   any                      `log.events_answer`: `log.BEGIN`, `index.runs_event` at once
                                                       and when anything changes, `log.KEEP_ALIVE` every 15 s
``/runs/<run-id>/log``        HTML, else JSON          `log.log_page`
``/runs/<run-id>/log``        ``text/event-stream``    `log.events_answer`: `log.BEGIN`, `log.lines_event` from the
                                                       cursor in ``Last-Event-ID``, else in ``?after=``;
                                                       `log.end_event` at last
``/moat.css``, ``.js``,       any                      `assets.asset`
``.svg``
other                         HTML, else JSON          `errors.unknown_page`
============================  =======================  ==============================================================

On an agent's hosts everything is the agent's. What is said there instead of it is in `agent` and `errors`.
"""
