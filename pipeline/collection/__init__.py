"""A searchable collection of images in one folder: build it, change it, ask it.

```python
from pipeline import collection
photos = collection.build("photos", "my.index")
photos.search("query.jpg", k=12).neighbours
```
"""

from pipeline.collection.about import absent, info, verify
from pipeline.collection.build import build
from pipeline.collection.change import Added, add, remove
from pipeline.collection.collection import Answer, Collection, Look, Neighbour
from pipeline.collection.duplicates import duplicates
from pipeline.collection.methods import Method
from pipeline.collection.network import Where

__all__ = [
    "Added",
    "Answer",
    "Collection",
    "Look",
    "Method",
    "Neighbour",
    "Where",
    "absent",
    "add",
    "build",
    "duplicates",
    "info",
    "remove",
    "verify",
]
