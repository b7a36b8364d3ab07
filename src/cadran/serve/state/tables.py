"""Every table of the server's state, so that whoever imports this knows them all: migrations and their test.

A new table: its file here, and a script in ``migrations/versions``; the test that compares both says what is missing.
"""

from cadran.serve.state.api_key import ApiKey
from cadran.serve.state.stored_response import StoredResponse
from cadran.serve.state.usage import Usage
from cadran.serve.state.vote import Vote

TABLES = (ApiKey, StoredResponse, Usage, Vote)
