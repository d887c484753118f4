"""A Django project and a FastAPI application that share a group through one Redis.

Use two terminals, each with its own environment, and REDIS_URL set in both::

    pip install channels channels_redis uvicorn[standard]
    uvicorn examples.django_and_fastapi.django_project:application --port 8001

    pip install 'fast-channels[examples]'
    uvicorn examples.django_and_fastapi.fastapi_app:app --port 8002

Run ``curl -X POST 'http://localhost:8001/news?text=hello'`` with either port: the text
reaches the WebSockets ``/ws/news`` of both servers.
"""
