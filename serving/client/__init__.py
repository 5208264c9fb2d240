"""The clients of a served model, over gRPC and HTTP, blocking and for asyncio."""
