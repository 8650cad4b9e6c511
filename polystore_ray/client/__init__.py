"""The backends of a store, as a user's process sees them: the cluster memory and hosted backends.

``memory`` and ``hosted`` implement the contract of ``polystore``; the other modules serve them. The
package reaches the cluster only through ``transport``, and never imports Ray.
"""
