"""What makes an institution's model of another framework one that BlockFL trains: the functions of ``arrays``.

Each module needs its framework in the training process's environment (``--python``), and nothing of it in the agent's.
"""
