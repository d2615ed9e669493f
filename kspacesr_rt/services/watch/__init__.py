"""A folder that is watched: series are super-resolved as they land in it.

::

    notices -> arrivals --a series came to rest--> Session -> OUT, its journal, its report
    (inotify    (which files there are,            (one model, one held folder,
     or poll)    which still grow)                  as long as the watch lasts)

The folder is only read. Needs the extra ``watch`` (watchdog), unless it is polled.
"""

from kspacesr_rt.services.watch.service import WatchOptions, watch

__all__ = ["WatchOptions", "watch"]
