"""A stand-in for the product's SDK: it sends what the page's methods say, and nothing else."""

import os

import requests


class AuthAPI:
    def __init__(self, api_key):
        self.origin = os.environ["SAMPLE_ORIGIN"]
        self.headers = {"Authorization": f"Bearer {api_key}"}

    def register(self, account):
        return self._send("POST", "/v1/auth/register", account)

    def login(self, credentials):
        return self._send("POST", "/v1/auth/login", credentials)

    def get_profile(self):
        return self._send("GET", "/v1/auth/profile")

    def _send(self, method, path, body=None):
        response = requests.request(method, self.origin + path, headers=self.headers, json=body, timeout=30)
        if not response.ok:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()
