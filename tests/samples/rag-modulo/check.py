assert login_response.status_code == 200, (login_response.status_code, login_response.text)
assert response.status_code == 200, (response.status_code, response.text)
