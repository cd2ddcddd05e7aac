"""What emitd knows of web applications, whatever their framework: addresses, request ids, event streams, the stop.

Nothing in here imports a framework. `emitd.fastapi` puts it together for FastAPI.
"""
