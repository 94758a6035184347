assert token.count('.') == 2, token
assert response.status_code == 200, (response.status_code, response.text)
assert int(response.headers['X-RateLimit-Remaining']) < int(response.headers['X-RateLimit-Limit'])
