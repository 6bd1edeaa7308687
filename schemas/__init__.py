"""What events are and how records hold them. Imports nothing of refold but itself.

    from schemas import Category, Event, cloudevents, plain, constant, RECORD_TIME, RECORD_KEY
"""

from schemas.category import Category
from schemas.envelope import MARKER_TYPE, RECORD_KEY, RECORD_TIME, cloudevents, constant, plain
from schemas.event import Event

__all__ = ["MARKER_TYPE", "RECORD_KEY", "RECORD_TIME", "Category", "Event", "cloudevents", "constant", "plain"]
