"""A Django project and a FastAPI application that share a group through one Redis.

Two terminals, each with an environment of its own, and REDIS_URL in both::

    pip install channels channels_redis uvicorn[standard]
    uvicorn examples.django_and_fastapi.django_project:application --port 8001

    pip install 'fast-channels[examples]'
    uvicorn examples.django_and_fastapi.fastapi_app:app --port 8002

What is sent with ``curl -X POST 'http://localhost:8001/news?text=hello'``, to either
port, reaches the WebSockets ``/ws/news`` of both.
"""
