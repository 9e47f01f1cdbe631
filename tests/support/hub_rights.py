"""Who may do what on the loopback Hub: tokens, private and gated repositories, in the Hub's own error codes."""

from dataclasses import dataclass

from starlette.requests import Request

from support.hub_repositories import RefusedError, Repositories, Repository


@dataclass(frozen=True)
class Account:
    """Who a token belongs to, what it may do, and the namespaces it may write to."""

    name: str
    role: str
    namespaces: tuple[str, ...]


class Rights:
    """Decides by the request's token.

    Args:
        repositories: what there is.
        accounts: by token.
    """

    def __init__(self, repositories: Repositories, accounts: dict[str, Account]):
        self.repositories, self.accounts = repositories, accounts
        self.granted: set[tuple[str, str]] = set()  # (account, gated repository)

    def account(self, request: Request) -> Account | None:
        """Whose token the request carries, if any."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.accounts:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.accounts.get(token)

    def readable(self, request: Request, kind: str, repo: str, *, content: bool = False) -> Repository:
        """The repository, if this request may see it; its ``content`` may be gated besides."""
        account = self.account(request)
        try:
            repository = self.repositories[kind, repo]
        except RefusedError:
            if account is None:
                raise RefusedError(401, "Invalid username or password.", "RepoNotFound") from None
            raise
        owner = repo.partition("/")[0]
        if repository.private and (account is None or owner not in account.namespaces):
            raise RefusedError(404 if account else 401, "Repository not found", "RepoNotFound")
        if content and repository.gated:
            writes = account is not None and account.role == "write" and owner in account.namespaces
            if not writes and (account is None or (account.name, repo) not in self.granted):
                raise RefusedError(403 if account else 401, f"Access to {repo} is restricted.", "GatedRepo")
        return repository

    def writer(self, request: Request, repo: str) -> Account:
        """Whose token the request carries, if that may write to the repository."""
        account = self.account(request)
        if account is None:
            raise RefusedError(401, "Invalid username or password.")
        if account.role != "write" or repo.partition("/")[0] not in account.namespaces:
            raise RefusedError(403, "Forbidden: you don't have the rights to write to this repository")
        return account
