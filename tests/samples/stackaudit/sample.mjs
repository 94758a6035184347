const token = 'eyJhbGciOiJIUzI1NiIs...';

const response = await fetch('https://api.stackaudit.ai/v1/audits', {
  headers: {
    'Content-Type': 'application/json',
    'Authorization': `Bearer ${token}`
  }
});

const { audits } = await response.json();
