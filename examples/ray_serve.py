"""Several replicas of the server of ``hart serve`` behind one address, with Ray Serve.

    pip install "hart[server]" "ray[serve]"
    python examples/ray_serve.py --replicas 2

Each replica loads the model and has a queue and batches of its own; Ray Serve sends a request to
the replica that has fewer. On a Ray cluster they are spread over its machines; with ``--gpus 1``
each has a GPU of its own. Clients are those of ``hart serve`` (``examples/serve_client.py``).
"""

from __future__ import annotations

import argparse
from typing import Any

from ray import serve


def deployment(args: argparse.Namespace) -> Any:
    """The replicas. Requests wait in their own queues, where they are drawn together."""

    def build() -> Any:
        """One replica's application; runs on the replica."""
        from hart import HARTPipeline
        from hart.demo import DEMO_CHECKPOINT
        from hart.server.application import pipeline_application

        place, preset = args.model_path or DEMO_CHECKPOINT, args.cache_preset
        pipeline = HARTPipeline.from_pretrained(place, cache=preset)
        return pipeline_application(pipeline, args.name)[0]

    replica = serve.deployment(
        num_replicas=args.replicas,
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
    )
    return replica(serve.ingress(build)()).bind()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_path", help="default: the bundled demo checkpoint")
    parser.add_argument("--name", default="hart", help="what clients call the model")
    parser.add_argument("--cache-preset", default="original")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=1, help="of each replica")
    parser.add_argument("--gpus", type=float, default=0, help="of each replica")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()

    serve.start(http_options={"host": "127.0.0.1", "port": args.port})
    serve.run(deployment(args), blocking=True)


if __name__ == "__main__":
    main()
